"""What both trees are asked to do: shell scripts of public commands, each run in an empty folder of its own.

`phalanx` is the tree's own, what all begin from lies in `../in`, and what a script prints goes to `output.txt`.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

BEFORE = "f33da81bf7f4919a59ab408ccc339b11e59f2f7a"  # the commit before the redesign, compared with by default


@dataclass(frozen=True)
class Job:
    """A script, and which of the files that it leaves are compared: glob patterns."""

    name: str
    script: str
    compared: tuple[str, ...] = ("**/*",)
    tolerance: float = 0.0  # of the numbers of a curve, relative above 1
    effort: float = 4.0  # seconds of a processor that it takes, about


@dataclass(frozen=True)
class Expected:
    """A difference that is meant: an improvement, in one file of one job."""

    job: str
    file: str
    reason: str


OTHERWISE = "traced from the module of a description: the same products, its views and values in another order"
MUON = "Muon keeps two moments of what is no matrix of a layer, multiplies, and sends whole matrices, all of it planned"
HELD = (
    "memory of pipelines: gradients from when there are any, each stage's own blocks, and words that both ends of a V "
    "have gathered (-14 % to +0.4 %)"
)
ONE_PIECE = "one piece of the logits is let go before the next is made: 11 % less memory at the fullest moment"
EXPECTED: tuple[Expected, ...] = (
    Expected("trace-2-gpt2-124m", "output.txt", ONE_PIECE),
    *(Expected(f"export-{run}-onnx", "out.onnx", OTHERWISE) for run in ("gpt-run", "post", "classes")),
    *(Expected(job, "output.txt", MUON) for job in ("plan-02-gpt-tiny", "plan-22-gpt2-1.5b", "trace-1-gpt-tiny")),
    *(
        Expected(job, "output.txt", HELD)
        for job in (
            "plan-11-gpt2-774m",
            "plan-12-gpt2-774m",
            "plan-13-gpt2-1.5b",
            "plan-15-gpt2-8.3b",
            "plan-18-bert-base",
            "plan-23-gpt2-8.3b",
            "plan-24-gpt2-8.3b",
            "plan-25-bert-large-phase1",
            "trace-4-bert-base",
        )
    ),
)

TINY = (
    "model.layers=2 model.hidden=32 model.heads=4 model.positions=32 data.sequence=32 data.split=0.8,0.2,0 "
    "train.batch=8 train.steps=8 train.eval_every=4 train.eval_sequences=6 train.compile=off train.device=cpu "
    "optim.lr=5e-3 optim.warmup=2 save.every=4 save.keep=9"
)
WIDE = "precision.dtype=fp32 model.init_std=0.2"  # else so small a model says the same whatever it is asked
POST = "model.norm_first=false"  # BERT as Google has it; Megatron's is pre-LN
GPT = f"phalanx train gpt-tiny data.train=../in/gpt {TINY}"
BERT = f"phalanx train bert-tiny data.train=../in/bert {TINY}"
TUNED = "train.batch=8 train.compile=off train.device=cpu precision.dtype=fp32 optim.lr=1e-3 --epochs 2"
TUNE = {
    "classes": f"phalanx tune ../in/post --task classes --data ../in/classes.jsonl --text words {TUNED}",
    "span": f"phalanx tune ../in/post --task squad2 --data ../in/squad.json --valid ../in/squad.json "
    f"data.sequence=32 examples.stride=8 {TUNED}",
    "completion": f"phalanx tune ../in/gpt-run --task completion --data ../in/completion.jsonl --text words "
    f"--label label {TUNED}",
}

# What the older commit makes before all else, in the folder `in`: sets of tokens, trained runs, folders of other
# programs. Both trees go on from these, so that one difference is not told many times.
INPUTS = (
    Job(
        "in/of-gpt",
        f"""
        cd ..
        rm -rf gpt.* gpt-*
        phalanx tokenizer train text.txt --out gpt.json --vocab 320
        phalanx prepare text.txt --out gpt --tokenizer gpt.json --document blank-line --workers 1
        {GPT} {WIDE} --out gpt-run
        phalanx export gpt-run gpt-hf
        phalanx export gpt-run gpt-megatron --to megatron --tp 2
        """,
    ),
    Job(
        "in/of-bert",
        f"""
        cd ..
        rm -rf bert.* post post-* pre pre-* classes span
        phalanx tokenizer train text.txt --out bert.json --vocab 320 --kind wordpiece
        phalanx prepare text.txt --out bert --tokenizer bert.json --document blank-line --sentences --workers 1
        {BERT} {WIDE} {POST} --out post
        {BERT} {WIDE} --out pre
        phalanx export post post-hf
        phalanx export pre pre-hf
        phalanx export pre pre-megatron --to megatron --tp 2
        {TUNE["classes"]} --out classes
        {TUNE["span"]} --out span
        """,
    ),
)


def write_texts(folder: Path) -> None:
    """Write the text and the labelled examples that the inputs are made of: sentences of a hundred invented words, each
    a likely guess after the one before it.
    """
    dice = random.Random(5)
    words = ["".join(dice.choices("abcdefgilmnorstu", k=dice.randint(2, 7))) for _ in range(100)]

    def sentence() -> str:
        place, spoken = dice.randrange(len(words)), []
        for _ in range(dice.randint(3, 12)):
            spoken.append(words[place])
            place = (place * 7 + dice.choice((1, 1, 1, 2))) % len(words)
        return " ".join(spoken).capitalize() + "."

    documents = [" ".join(sentence() for _ in range(dice.randint(3, 9))) for _ in range(40)]
    (folder / "text.txt").write_text("\n\n".join(documents))
    texts = [dice.choices(words, k=dice.randint(4, 14)) for _ in range(32)]
    for kind in ("classes", "completion"):
        labels = [f"c{n % 3}" if kind == "classes" else text[0] for n, text in enumerate(texts)]
        rows = [{"words": " ".join(text), "label": label} for text, label in zip(texts, labels, strict=True)]
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paragraphs = [_paragraph(n, text) for n, text in enumerate(texts)]
    (folder / "squad.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))


def _paragraph(number: int, words: list[str]) -> dict[str, object]:
    answer = {"text": words[2], "answer_start": len(" ".join(words[:2])) + 1}
    question = {"id": str(number), "question": words[2], "answers": [answer], "is_impossible": number % 5 == 0}
    return {"context": " ".join(words * 3), "qas": [question]}


CURVE = ("run/metrics.jsonl",)
ROUNDING = 1e-4, 10  # that sums over processes may differ by, and the effort of several processes
CURVES = [
    Job("curve-gpt-fp32-adamw", f"{GPT} precision.dtype=fp32 layout.micro_batch=4 --out run", CURVE),
    Job("curve-gpt-bf16-muon", f"{GPT} precision.dtype=bf16 optim.name=muon layout.recompute=block --out run", CURVE),
    Job("curve-bert-fp32-post", f"{BERT} {POST} precision.dtype=fp32 model.attention_dropout=0.1 --out run", CURVE),
    Job("curve-bert-bf16-lamb", f"{BERT} precision.dtype=bf16 optim.name=lamb data.whole_word=true --out run", CURVE),
    Job("curve-gpt-tp2", f"{GPT} precision.dtype=fp32 layout.tp=2 --out run", CURVE, *ROUNDING),
    Job("curve-bert-pp2", f"{BERT} precision.dtype=fp32 layout.pp=2 layout.micro_batch=2 --out run", CURVE, *ROUNDING),
    Job(
        "curve-gpt-zero3",
        f"{GPT} precision.dtype=fp32 layout.dp=2 layout.shard=zero3 data.stop_at_documents=true --out run",
        CURVE,
        *ROUNDING,
    ),
    Job("curve-gpt-ring", f"{GPT} precision.dtype=fp32 layout.cp=2 layout.context=ring --out run", CURVE, *ROUNDING),
    Job("curve-bert-dp2", f"{BERT} {POST} precision.dtype=fp32 layout.dp=2 --out run", CURVE, *ROUNDING),
    *(Job(f"curve-tune-{kind}", f"{command} --out run", CURVE) for kind, command in TUNE.items()),
]

QUICK_PLANS = (  # of which there are fixtures
    "gpt-tiny --gpus 1 --cluster laptop",
    "gpt-tiny --gpus 4 optim.name=muon model.ffn=512",
    "gpt-wikitext2 --gpus 4",
    "gpt2-124m --gpus 1 --cluster t4",
    "gpt2-124m --gpus 8",
    "gpt2-124m --gpus 8 --cluster dgx-1",
    "gpt2-124m --gpus 8 model.ffn=2048 --json --top 3",
    "gpt2-124m --gpus 64 --batch 513 --top 3",
    "gpt2-355m --gpus 8 --cluster h200 --precision fp8",
    "gpt2-355m --gpus 64 data.sequence=8192 model.positions=8192 --top 5",
    "gpt2-774m --gpus 8 layout.tp=2",
    "gpt2-774m --gpus 32 --cluster dgx2 --precision fp16",
    "gpt2-1.5b --gpus 128 --cluster selene --tokens 300B --price 2",
    "gpt2-8.3b --gpus 64 --cluster selene --why 'tp8 dp8'",
    "gpt2-8.3b --gpus 512 --cluster vtrain layout.tp=8 layout.recompute=block --top 3",
    "bert-tiny --gpus 2 --cluster laptop",
    "bert-novels --gpus 8",
    "bert-base --gpus 8",
    "bert-base --gpus 16 --cluster dgx-1-16gb",
    "bert-large-phase1 --gpus 64 --cluster selene --top 5",
    "bert-large-phase2 --gpus 64 --json --top 3",
)
PLANS = (
    *QUICK_PLANS,
    "gpt2-1.5b --gpus 16 --cluster dgx-a100 optim.name=muon",
    "gpt2-8.3b --gpus 512",
    "gpt2-8.3b --gpus 512 --cluster dgx2h-superpod --json --top 3",
    "bert-large-phase1 --gpus 64 --cluster dgx2h-2019 model.preset=megatron-3.9b --top 5",
    "table --source sc21-t1",
)
TRACES = (
    "gpt-tiny layout.tp=2 layout.recompute=block optim.name=muon --ranks 4 --json",
    "gpt2-124m model.layers=3 layout.cp=2 layout.context=ring layout.shard=zero3 --ranks 4 --rank 3",
    "gpt2-124m model.layers=4 layout.pp=2 layout.schedule=interleaved layout.chunks=2 layout.micro_batch=1 "
    "train.batch=4 --ranks 2 --rank 1 --json",
    "bert-base model.layers=4 layout.pp=2 layout.schedule=zbv layout.micro_batch=2 train.batch=8 --ranks 2",
    "bert-large-phase1 model.layers=2 layout.tp=4 layout.dp=2 layout.shard=zero2 train.batch=16 --rank 5 --json",
    "bert-tiny layout.tp=2 layout.sequence_parallel=false layout.recompute=attention --ranks 2",
)
ASKED = [
    *(Job(f"plan-{n:02}-{words.split()[0]}", f"phalanx plan {words}", effort=0.7) for n, words in enumerate(PLANS, 1)),
    *(Job(f"trace-{n}-{words.split()[0]}", f"phalanx trace {words}") for n, words in enumerate(TRACES, 1)),
]

IMPORTED = ("run/**/*.safetensors", "run/tokenizer.json")
WRITTEN = ("out/**/*",)
CONVERTED = [
    *(
        Job(f"export-{run}-hf", f"phalanx export ../in/{run} out", WRITTEN)
        for run in ("gpt-run", "post", "pre", "classes", "span")
    ),
    *(
        Job(f"export-{run}-megatron", f"phalanx export ../in/{run} out --to megatron --tp 2", WRITTEN)
        for run in ("gpt-run", "pre")
    ),
    *(
        Job(f"export-{run}-onnx", f"phalanx export ../in/{run} out.onnx --to onnx", ("out.onnx",))
        for run in ("gpt-run", "post", "classes")
    ),
    *(
        Job(f"import-{folder}", f"phalanx import hf:../in/{folder} --out run", IMPORTED)
        for folder in ("gpt-hf", "post-hf", "pre-hf")
    ),
    *(
        Job(
            f"import-{kind}-megatron",
            f"phalanx import megatron:../in/{kind}-megatron --tokenizer ../in/{family}.json --out run",
            IMPORTED,
        )
        for kind, family in (("gpt", "gpt"), ("pre", "bert"))
    ),
]

TOKENIZERS = "bpe", "wordpiece", "wordpiece-cased"
LEARN = "phalanx tokenizer train ../in/text.txt --vocab 300"
PREPARE = "phalanx prepare ../in/text.txt --document blank-line --workers 1"
DATA = [
    Job("data-tokenizers", "; ".join(f"{LEARN} --kind {kind} --out {kind}.json" for kind in TOKENIZERS)),
    Job(
        "data-prepared",
        f"""
        {PREPARE} --out gpt --tokenizer ../in/gpt.json > told.txt
        {PREPARE} --out bert --tokenizer ../in/bert.json --sentences >> told.txt
        phalanx data show gpt 3 --sequence 32
        phalanx data show bert 5 --sequence 32
        for name in gpt bert; do grep -v '"time"' $name.manifest.json > $name.facts; done
        """,
        ("*.bin", "*.idx", "*.tokenizer.json", "*.facts", "output.txt"),
    ),
]

PROMPT = "'Words are'"
ANSWERS = [
    Job("answer-generate-torch", f"phalanx generate ../in/gpt-run {PROMPT} --greedy --max-tokens 20 --backend torch"),
    Job("answer-generate-auto", f"phalanx generate ../in/gpt-run {PROMPT} --greedy --max-tokens 20"),
    Job("answer-generate-sampled", f"phalanx generate ../in/gpt-run {PROMPT} --seed 3 --max-tokens 20 --backend torch"),
    Job("answer-fill-torch", "phalanx fill ../in/post 'a [MASK] of [MASK].'"),
    Job("answer-fill-native", "phalanx fill ../in/pre 'a [MASK] of [MASK].' --backend native"),
    Job("answer-classify", "phalanx classify ../in/classes 'some words'"),
    Job("answer-answer", "phalanx answer ../in/span 'what is it' \"$(head -c 300 ../in/text.txt)\""),
    Job("answer-embed", "phalanx embed ../in/post 'one text' 'and another' --out vectors.npy"),
    Job("answer-eval-gpt", "phalanx eval ../in/gpt-run"),
    Job("answer-eval-classes", "phalanx eval ../in/classes --predictions said.jsonl"),
    Job("answer-http", '"$PYTHON" -m tests.unchanged.served gpt=../in/gpt-run post=../in/post classes=../in/classes'),
]

# A run that was stopped after half of its steps: what it saved later is taken away.
HALF = "cp -r ../in/{run} run; rm -r run/checkpoints/step-0000008 run/checkpoints/best"
CONTINUED = [
    Job("continue-gpt", f"{HALF.format(run='gpt-run')}; phalanx train run", CURVE),
    Job("continue-bert", f"{HALF.format(run='post')}; phalanx train run", CURVE),
    Job("continue-gpt-on-tp2", f"{HALF.format(run='gpt-run')}; phalanx train run layout.tp=2", CURVE, *ROUNDING),
    Job(
        "continue-gpt-megatron",
        "phalanx import megatron:../in/gpt-megatron --tokenizer ../in/gpt.json --out model\n"
        f"{GPT} precision.dtype=fp32 --from model --out run",
        CURVE,
    ),
    Job(
        "continue-bert-megatron",
        "phalanx import megatron:../in/pre-megatron --tokenizer ../in/bert.json --out model\n"
        f"{BERT} precision.dtype=fp32 --from model --out run",
        CURVE,
    ),
]

JOBS = [*CURVES, *CONTINUED, *ANSWERS, *CONVERTED, *DATA, *ASKED]

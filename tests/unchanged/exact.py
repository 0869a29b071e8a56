"""What no processor changes, as text: plans, messages, parameters, first weights, converted folders.

The files in `fixtures/` hold it, `test_exact.py` compares the tree at hand with them, and
`python -m tests.unchanged --write` writes them anew, so that a change shows in a diff.
"""

import hashlib
import shlex
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from typer.testing import CliRunner

from phalanx import recipe, registry
from phalanx.cli.app import app
from phalanx.config import ModelConfig
from phalanx.models.build import build, make
from phalanx.models.family import configured, spec_of
from phalanx.plan.trace_report import planned_messages
from phalanx.train.resolve import Target, resolve
from tests.convert.folders import MODELS, config_of, tokenizer_of
from tests.infer.runs import make_run
from tests.unchanged.jobs import QUICK_PLANS

FIXTURES = Path(__file__).parent / "fixtures"

LAYOUTS = (
    "gpt2-124m layout.dp=8",
    "gpt2-355m layout.tp=4 layout.pp=2 layout.dp=2 layout.micro_batch=2",
    "gpt2-355m layout.tp=2 layout.sequence_parallel=false layout.recompute=block layout.dp=4 layout.shard=zero2",
    "gpt2-774m layout.cp=4 layout.context=ring layout.dp=2 layout.shard=zero3",
    "gpt2-1.5b layout.pp=4 layout.schedule=interleaved layout.chunks=3 layout.micro_batch=1 layout.dp=2",
    "gpt2-124m layout.tp=2 layout.dp=2 optim.name=muon",
    "gpt2-124m layout.tp=2 optim.name=muon model.ffn=2048",
    "bert-base layout.tp=2 layout.dp=4 layout.recompute=attention",
    "bert-base layout.cp=2 layout.dp=2",
    "bert-large-phase1 layout.tp=4 layout.dp=2 layout.shard=zero3",
    "bert-large-phase1 layout.pp=2 layout.schedule=zbv layout.micro_batch=4 layout.dp=4",
)
HEADS = "classes", "value", "span", "choice", "tokens"


def plans() -> Iterator[str]:
    """What `phalanx plan` prints."""
    for words in QUICK_PLANS:
        yield f"$ phalanx plan {words}\n{_phalanx('plan', *shlex.split(words))}"


def messages() -> Iterator[str]:
    """What a step's first and last rank have to say, by the planner's closed forms."""
    for words in LAYOUTS:
        config = resolve(recipe.load(words.split()[0], words.split()[1:]), Target())
        layout = config.layout
        for rank in sorted({0, layout.tp * layout.cp * layout.pp * layout.dp - 1}):
            yield f"{words}, rank {rank}"
            for message, times in sorted(planned_messages(config, rank, "cuda").items()):
                yield f"  {times:>5} × {message.kind} {message.axes} {message.bytes:,}"


def parameters() -> Iterator[str]:
    """Names and shapes in order: whole of the smallest models, of named sizes their number and a checksum."""
    for name, config in _models().items():
        yield name
        yield from (f"  {line}" for line in _shapes(config))
    for family in ("gpt2", "bert"):
        for preset, section in registry.MODELS.find(family).PRESETS.items():
            lines = list(_shapes(configured(family=family, vocab=50257, **section)))
            yield f"{family} {preset}: {len(lines)} parameters, {_digest(chr(10).join(lines).encode())}"


def weights() -> Iterator[str]:
    """Checksums of first weights: of each parameter of the smallest models, of the whole of larger ones."""
    for name, config in _models().items():
        yield name
        yield from _told(_state(config))
    for family, preset, layers in ("gpt2", "124m", 1), ("bert", "tiny", 2):
        section = {**registry.MODELS.find(family).PRESETS[preset], "layers": layers}
        state = _state(configured(family=family, vocab=4096, **section))
        yield f"{family} {preset}, {layers} layers: {_digest(''.join(_told(state)).encode())}"


def _state(config: ModelConfig) -> Mapping[str, Tensor]:
    return build(config, 7, torch.device("cpu")).state_dict()


def converted() -> Iterator[str]:
    """Folders for Hugging Face and Megatron, and the run that comes back from each."""
    with tempfile.TemporaryDirectory() as place:
        for kind in ("gpt2", "bert", "megatron-bert"):
            folder, model = Path(place) / kind, MODELS[kind]
            folder.mkdir()
            tokenizer_of(kind).save(folder / "letters.json")
            make_run(folder / "run", config_of(kind), str(folder / "letters.json"))
            yield f"{kind}, a run: {_checkpoint(folder / 'run')}"
            yield from _hugging_face(folder)
            if not spec_of(model).tuned:
                yield from _megatron(folder)


def _hugging_face(folder: Path) -> Iterator[str]:
    out, back = folder / "hf", folder / "back"
    _phalanx("export", folder / "run", out)
    yield f"for Hugging Face: {(out / 'config.json').read_text()}"
    with safe_open(out / "model.safetensors", "pt") as file:
        yield from _told({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118  no mapping
        yield f"  {file.metadata()}"
    _phalanx("import", f"hf:{out}", "--out", back)
    yield f"and back: {_checkpoint(back)}"


def _megatron(folder: Path) -> Iterator[str]:
    out, back = folder / "megatron", folder / "again"
    _phalanx("export", folder / "run", out, "--to", "megatron", "--tp", "2")
    for file in sorted(out.rglob("*.pt")):
        yield f"for Megatron: {file.relative_to(out)}"
        with torch.serialization.safe_globals([Namespace]):
            yield from _told(_leaves(torch.load(file)))
    _phalanx("import", f"megatron:{out}", "--out", back, "--tokenizer", folder / "letters.json")
    yield f"and back: {_checkpoint(back)}"


PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "plans": plans,
    "messages": messages,
    "parameters": parameters,
    "weights": weights,
    "converted": converted,
}


def text(part: str) -> str:
    """A part, as its fixture should be."""
    return "".join(f"{line}\n" for line in PARTS[part]())


def fixture(part: str) -> Path:
    """The file of a part."""
    return FIXTURES / f"{part}.txt"


def write() -> Iterator[str]:
    """Write the fixtures anew; a line for each."""
    FIXTURES.mkdir(exist_ok=True)
    for part in PARTS:
        before = fixture(part).read_text(encoding="utf-8") if fixture(part).exists() else ""
        now = text(part)
        fixture(part).write_text(now, encoding="utf-8")
        yield f"{fixture(part)}: {'as before' if now == before else 'written anew'}"


def _models() -> dict[str, ModelConfig]:
    """The smallest model of each family and form, with each head."""
    bert = MODELS["bert"]
    heads = {f"bert with {head}": bert.model_copy(update={"head": head}) for head in HEADS}
    return {
        "gpt2": MODELS["gpt2"],
        "bert": bert.model_copy(update={"head": ""}),
        "pre-LN bert": MODELS["megatron-bert"],
    } | heads


def _shapes(config: ModelConfig) -> Iterator[str]:
    with torch.device("meta"):
        for name, parameter in make(config).named_parameters():
            yield f"{name} {list(parameter.shape)}"


def _told(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """A line for each tensor: its name, shape, dtype and a checksum of its bytes."""
    for name, tensor in tensors.items():
        raw = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        yield f"  {name} {list(tensor.shape)} {tensor.dtype} {_digest(raw)}"


def _leaves(value: object, name: str = "") -> dict[str, Tensor]:
    """The tensors of a nested dictionary by their paths."""
    if isinstance(value, Tensor):
        return {name: value}
    if not isinstance(value, dict):
        return {}
    return {path: leaf for key, inner in value.items() for path, leaf in _leaves(inner, f"{name}/{key}").items()}


def _checkpoint(run: Path) -> str:
    """A checksum of the weights of a run with one checkpoint."""
    (file,) = run.glob("checkpoints/*/model.0.safetensors")
    with safe_open(file, "pt") as weights:
        return _digest("".join(_told({name: weights.get_tensor(name) for name in weights.keys()})).encode())  # noqa: SIM118


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _phalanx(*words: object) -> str:
    """What `phalanx WORDS` prints, run in this process."""
    told = CliRunner(env={"COLUMNS": "120"}).invoke(app, [*map(str, words)], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    return told.stdout

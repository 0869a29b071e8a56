"""The trained models in use: text continued, masks filled."""

from collections.abc import Iterator

from phalanx.infer.bundle import load_bundle
from phalanx.infer.decoder_model import DecoderModel
from phalanx.infer.fill import fill
from phalanx.infer.sample import Options
from phalanx.quickstart.learn import run_folder
from phalanx.quickstart.plan import MASKED, PROMPTS, TEMPERATURE, TOP_P, Workspace
from phalanx.quickstart.stages import Result

CANDIDATES = 5


def write_samples(workspace: Workspace) -> Result:
    """Write a text after each prompt: the first draw, not the best of several."""
    run = run_folder(workspace, "gpt")
    model = DecoderModel(load_bundle(run))
    options = Options(max_tokens=workspace.plan.write, temperature=TEMPERATURE, top_p=TOP_P, seed=0)
    samples = [[prompt, "".join(model.generate(prompt, options))] for prompt in PROMPTS]
    return {"samples": samples, "at": str(run)}


def describe_samples(result: Result) -> Iterator[str]:
    """Yield the prompts, each with what follows."""
    for prompt, text in result["samples"]:
        yield f"› {prompt} ▸ {' '.join(text.split())}"
    yield f'Your turn: phalanx generate {result["at"]} "The next morning"'


def fill_masks(workspace: Workspace) -> Result:
    """Find the likeliest words of each mask, with their probabilities."""
    run = run_folder(workspace, "bert")
    bundle = load_bundle(run)
    filled = [[text, fill(bundle, text, CANDIDATES)[0].words] for text in MASKED]
    return {"filled": filled, "at": str(run)}


def describe_masks(result: Result) -> Iterator[str]:
    """Yield the sentences, each with the words that could stand in it."""
    for text, candidates in result["filled"]:
        yield f"› {text}  ▸ " + ", ".join(f"{word} {chance:.0%}" for word, chance in candidates)
    yield f'Your turn: phalanx fill {result["at"]} "He took her [MASK] in his."'

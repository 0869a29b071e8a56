"""Benchmark: the latency of each backend beside plain Hugging Face, in turns, so that what else runs hits all alike."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from phalanx import recipe
from phalanx.config import Config
from phalanx.convert.config_json import facts_of, form_of
from phalanx.convert.linked import exported
from phalanx.data.labelled import Encoded
from phalanx.data.source import Array
from phalanx.data.tokenize import load_tokenizer
from phalanx.errors import InputError
from phalanx.infer import backends, brought
from phalanx.infer.backends.protocol import EncoderProgram, ProgramSpec
from phalanx.infer.batching import pad_rows
from phalanx.infer.bundle import ModelBundle, load_bundle
from phalanx.models.build import build
from phalanx.models.family import spec_of
from phalanx.run.checkpoint import Restored
from phalanx.spec.links import links
from phalanx.units import aligned

RAGGED = 24  # rows of all lengths between 16 and the longest, most of them short

OnProgress = Callable[[int, int], None]  # with calls that are done, and all calls


class Cell(NamedTuple):
    """The measurement of calls with certain rows: tokens of a call, and by program the median and the 99th percentile
    of its milliseconds.
    """

    name: str
    tokens: int
    p50: dict[str, float]
    p99: dict[str, float]


def subject(model: str) -> ModelBundle:
    """Load the model of a run or of hf:FOLDER, or make one of a recipe's size, with random weights and a head for
    questions. InputError for a decoder.
    """
    if model not in recipe.names():
        with brought(model) as run:
            bundle = load_bundle(run)
        if bundle.spec.causal:
            raise InputError(f"{model} is no BERT; bench infer is about those")
        return bundle

    tokenizer = load_tokenizer("bert-uncased")
    config = recipe.load(model, [f"model.vocab={tokenizer.vocab}"])
    if spec_of(config.model).causal:
        raise InputError(f"{model} is no BERT; bench infer is about those")

    sizes = config.model.tuned("span", 0)
    tuned = config.model_copy(update={"model": sizes, "task": "span"})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return ModelBundle(Path(model), build(sizes, 0, device).eval(), tokenizer, tuned, Restored(0, None, ()))


def programs(
    bundle: ModelBundle, names: Sequence[str], precisions: Sequence[str]
) -> tuple[dict[str, EncoderProgram], list[str]]:
    """Return programs by backend and precision, Hugging Face's model among them; and a line for each that is
    unavailable.
    """
    encoders: dict[str, EncoderProgram] = {}
    unavailable = []
    for name in names:
        for precision in precisions:
            if reason := backends.unavailable(name, "encoder", bundle.spec, precision):
                unavailable.append(f"{name} {precision}: {reason}")
                continue
            program = ProgramSpec(bundle, precision, not bundle.spec.tuned)
            encoders[f"{name} {precision}"] = backends.encoder_program(name, program)

    try:
        encoders["hugging face fp32"] = _HuggingFace(bundle)
    except InputError as error:
        unavailable.append(f"hugging face: {error}")
    return encoders, unavailable


def measure(encoders: dict[str, EncoderProgram], bundle: ModelBundle, batches: Sequence[int], lengths: Sequence[int],
            rounds: int, progress: OnProgress) -> Iterator[Cell]:  # fmt: skip
    """Time the programs in turns; yield a cell for each batch and length, and one of ragged rows."""
    draw = np.random.default_rng(0)
    shapes = [(f"{batch} x {length}", [length] * batch) for length in lengths for batch in batches]
    shapes.append(("ragged", np.geomspace(16, max(lengths), RAGGED).astype(int).tolist()))

    for number, (name, sizes) in enumerate(shapes):
        rows = [Encoded(draw.integers(0, bundle.tokenizer.vocab, n), n // 2) for n in sizes]
        times: dict[str, list[float]] = {each: [] for each in encoders}

        for turn in range(rounds + 2):
            for each, program in encoders.items():
                start = time.perf_counter()
                program(rows)
                if turn > 1:
                    times[each].append((time.perf_counter() - start) * 1e3)
            progress(number * (rounds + 2) + turn + 1, len(shapes) * (rounds + 2))

        middle, late = ({each: float(np.percentile(all_, q)) for each, all_ in times.items()} for q in (50, 99))
        yield Cell(name, sum(sizes), middle, late)


def table(cells: Sequence[Cell]) -> list[str]:
    """Return lines for a terminal: milliseconds, p50 / p99; of ragged rows also tokens a second."""
    rows = [["", *(f"{cell.name} ms" for cell in cells), "ragged tokens/s"]]
    for each in cells[0].p50:
        times = (f"{cell.p50[each]:.1f} / {cell.p99[each]:.1f}" for cell in cells)
        rows.append([each, *times, f"{cells[-1].tokens / cells[-1].p50[each] * 1e3:,.0f}"])
    return aligned(rows, left=(0,), space="  ")


class _HuggingFace:
    """Hugging Face's model with our weights, in fp32: rows filled up to the longest, as their pipelines do."""

    def __init__(self, bundle: ModelBundle) -> None:
        """Load our weights into the model. InputError where transformers is not installed, or has no such model."""
        if reason := backends.missing_package("transformers"):
            raise InputError(reason)
        import transformers

        config: Config = bundle.config
        facts = facts_of(config, bundle.tokenizer)
        kind: Any = getattr(transformers, facts["architectures"][0])
        self.device = next(bundle.model.parameters()).device
        self.model = kind(kind.config_class(**facts)).eval().to(self.device)
        self.segmented = bundle.spec.segments > 1
        names = form_of(config.model, bundle.run)[1].names
        state = exported(links(spec_of(config.model), names), bundle.model.state_dict())
        self.model.load_state_dict(dict(state), strict=False)
        self.pad, self.most = bundle.tokenizer.pad or 0, bundle.context

    @torch.inference_mode()
    def __call__(self, rows: Sequence[Encoded]) -> list[Array]:
        """Return the head's numbers for each row, float32 [longest, width] or [width]."""
        tokens, segment, mask = (torch.from_numpy(x).to(self.device) for x in pad_rows(rows, self.pad, 1, self.most))
        segments = {"token_type_ids": segment} if self.segmented else {}
        outputs = self.model(tokens, attention_mask=mask, **segments)
        if "start_logits" in outputs:
            return list(torch.stack([outputs.start_logits, outputs.end_logits], -1).cpu().numpy())
        return list(outputs[0].cpu().numpy())

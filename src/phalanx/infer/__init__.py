"""Using a trained model: questions answered, texts classified, filled, embedded and continued. Knows checkpoints, never
the trainer.

    from phalanx.infer import load
    load("runs/bert-squad").answer("Who wrote it?", text)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from phalanx.errors import InputError

if TYPE_CHECKING:
    from phalanx.infer.bert import Bert
    from phalanx.infer.gpt import GPT


def tell(line: str) -> None:
    """On stderr: what is told beside the answers."""
    print(line, file=sys.stderr, flush=True)


def load(
    model: str | Path, backend: str = "auto", precision: str = "fp32", best: bool = True,
    say: Callable[[str], None] = tell, scratch: str | None = None,
) -> Bert | GPT:  # fmt: skip
    """A run folder's model, or that of a Hugging Face folder (hf:FOLDER), ready to be used.

    `backend` is auto (of a BERT the fastest here, measured at the first load; `say` is told what was found), torch,
    native, onnxruntime, openvino or tensorrt. A GPT is computed by native where that can be had, else by torch.
    `precision` is fp32, bf16, fp16 or int8. `scratch` is a folder for what of a Hugging Face folder lies on disk while
    it is read, instead of the system's for temporary files.
    """
    from phalanx.infer import kernels
    from phalanx.infer.bert import Bert
    from phalanx.infer.gpt import GPT
    from phalanx.infer.loaded import load as loaded

    with brought(str(model), say, scratch, heads=False) as run:
        found = replace(loaded(run, best), run=Path(model))
    for note in found.restored.notes:
        say(f"phalanx: {note}")
    if not found.spec.causal:
        return Bert(found, backend, precision, say)
    if backend == "auto" and (reason := kernels.unsupported(found.spec)):
        say(f"phalanx: computed by torch; native: {reason}")
    return GPT(found, backend, precision)


def load_bert(model: str | Path, backend: str = "auto", precision: str = "fp32") -> Bert:
    """As `load`; InputError for a GPT."""
    found = load(model, backend, precision)
    from phalanx.infer.bert import Bert

    if not isinstance(found, Bert):
        raise InputError(f"{model} learned to continue a text, and a BERT is needed; use: phalanx generate {model}")
    return found


def load_gpt(model: str | Path, backend: str = "auto", precision: str = "fp32") -> GPT:
    """As `load`; InputError for a BERT."""
    from phalanx.infer.bert import Bert

    found = load(model, backend, precision)
    if isinstance(found, Bert):
        raise InputError(f"{model} learned to fill masks, not to continue a text; use: phalanx fill {model}")
    return found


@contextmanager
def brought(
    model: str, say: Callable[[str], None] = tell, scratch: str | None = None, heads: bool = True
) -> Iterator[Path]:
    """The run folder of a model; of hf:FOLDER one that is there only now, in the folder `scratch` if given. `say` is
    told what the folder lacks with `heads` alone: where questions are asked, those to such heads are refused.
    """
    from phalanx.convert.huggingface import import_folder
    from phalanx.run.folder import RunFolder

    if not model.startswith("hf:"):
        if not RunFolder(model).exists and (Path(model) / "config.json").is_file():
            raise InputError(f"{model} is a folder of Hugging Face's, not a run; write hf:{model}")
        yield Path(model)
        return
    with TemporaryDirectory(prefix="phalanx-", dir=scratch) as there:
        folder = Path(there) / "model"
        for line in import_folder(Path(model.removeprefix("hf:")), folder).lines(heads):
            say(line.replace(str(folder), model))
        yield folder

"""Inference: a trained model answers questions, classifies, fills, embeds and continues texts. The package knows
checkpoints, never the trainer.

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
    from phalanx.infer.decoder_model import DecoderModel
    from phalanx.infer.encoder_model import EncoderModel


def log_to_stderr(line: str) -> None:
    """Print a line on stderr, where notes go that are no answers."""
    print(line, file=sys.stderr, flush=True)


def load(
    model: str | Path, backend: str = "auto", precision: str = "fp32", best: bool = True,
    log: Callable[[str], None] = log_to_stderr, scratch: str | None = None,
) -> EncoderModel | DecoderModel:  # fmt: skip
    """Load the model of a run folder, of a Hugging Face folder (hf:FOLDER) or of their hub (hf:org/name), ready to be
    used.

    `backend` is torch, native, onnxruntime, openvino, tensorrt, one from outside by "module:Name", or auto: for an
    encoder the fastest here, measured at the first load; for a decoder native where that can be had, else torch. Where
    the backend computes encoders alone, a decoder is computed as by auto. `log` gets a line about that, and what was
    measured. `precision` is fp32, bf16, fp16 or int8. `scratch` is a folder for what of a Hugging Face folder lies on
    disk while it is read, instead of the system's for temporary files. InputError for a folder or a backend that will
    not do.
    """
    from phalanx.infer import backends
    from phalanx.infer.bundle import load_bundle
    from phalanx.infer.decoder_model import DecoderModel
    from phalanx.infer.encoder_model import EncoderModel

    with brought(str(model), log, scratch, heads=False) as run:
        bundle = replace(load_bundle(run, best), run=Path(model))
    for note in bundle.restored.notes:
        log(f"phalanx: {note}")
    if not bundle.spec.causal:
        return EncoderModel(bundle, backend, precision, log)

    if backend != "auto" and not backends.computes(backend, "decoder"):
        log(f"phalanx: backend={backend} computes no decoders; {model} is computed as by backend=auto")
        backend = "auto"
    return DecoderModel(bundle, backend, precision, log=log)


def load_encoder(model: str | Path, backend: str = "auto", precision: str = "fp32") -> EncoderModel:
    """Load an encoder as `load` does; InputError for a decoder."""
    from phalanx.infer.encoder_model import EncoderModel

    loaded = load(model, backend, precision)
    if not isinstance(loaded, EncoderModel):
        raise InputError(f"{model} learned to continue a text, and a BERT is needed; use: phalanx generate {model}")
    return loaded


def load_decoder(model: str | Path, backend: str = "auto", precision: str = "fp32") -> DecoderModel:
    """Load a decoder as `load` does; InputError for an encoder, and for a backend that computes encoders alone."""
    from phalanx.infer import backends
    from phalanx.infer.decoder_model import DecoderModel

    if backend != "auto" and not backends.computes(backend, "decoder"):
        raise InputError(f"backend={backend}: {backends.wrong_kind('decoder')}")
    loaded = load(model, backend, precision)
    if not isinstance(loaded, DecoderModel):
        raise InputError(f"{model} learned to fill masks, not to continue a text; use: phalanx fill {model}")
    return loaded


@contextmanager
def brought(
    model: str, log: Callable[[str], None] = log_to_stderr, scratch: str | None = None, heads: bool = True
) -> Iterator[Path]:
    """Yield the run folder of a model; of hf:FOLDER, gguf:FILE, and of a model of the hub, one that exists only
    meanwhile, in the folder `scratch` if given. `log` gets what the folder lacks with `heads` alone: where questions
    are asked, those to such heads are refused. InputError for what cannot be used without an import.
    """
    from phalanx.convert.sources import import_source
    from phalanx.run.folder import RunFolder
    from phalanx.run.import_record import ModelSource

    source = ModelSource.of(model)
    if not source.form:
        if not RunFolder(source.folder).exists and (source.folder / "config.json").is_file():
            raise InputError(f"{model} is a folder of Hugging Face's, not a run; write hf:{model}")
        yield source.folder
        return
    with TemporaryDirectory(prefix="phalanx-", dir=scratch) as temporary:
        folder = Path(temporary) / "model"
        for line in import_source(source, folder).lines(heads):
            log(line.replace(str(folder), model))
        try:
            yield folder
        except InputError as error:
            raise InputError(str(error).replace(str(folder), model)) from error

"""A GPT laid out over processes continues texts: a model too large for one device, and the same tokens."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from phalanx.errors import InputError
from phalanx.infer.bundle import ModelBundle
from phalanx.infer.decoder import Decoder, enable_cache
from phalanx.infer.decoder_model import DecoderModel
from phalanx.parallel import comm
from phalanx.parallel.mesh import Axis
from phalanx.tasks.distributed_model import distributed_model, evaluation_config


@contextmanager
def distributed_generator(run: Path, overrides: Sequence[str]) -> Iterator[DecoderModel]:
    """Yield the run's model by `overrides` such as layout.tp=2; every process calls this, and uses it, alike.

    InputError for a layout of anything but tensor parallelism.
    """
    layout = evaluation_config(run, overrides).layout
    if layout.pp > 1 or layout.cp > 1 or layout.dp > 1 or layout.shard != "none":
        raise InputError("generation is laid out by layout.tp alone; leave out the other layout words")
    with distributed_model(run, [*overrides, "layout.sequence_parallel=false"]) as laid_out:
        bundle = ModelBundle(
            laid_out.run, laid_out.model, laid_out.tokenizer, laid_out.config, laid_out.restored, laid_out.record
        )
        rows = laid_out.config.model.padded_vocab // laid_out.mesh.tp.size

        def gather(logits: Tensor) -> Tensor:
            return _whole(logits, rows, laid_out.mesh.tp)

        decoder = Decoder(laid_out.model, laid_out.tokenizer.vocab, enable_cache(laid_out.model), gather)
        yield DecoderModel(bundle, decoder=decoder)


def _whole(logits: Tensor, rows: int, tp: Axis) -> Tensor:
    """Return the logits of all ranks side by side: [tokens, words] of each; the last rank has fewer words."""
    # Gathering takes parts of one size, so the last rank's is padded.
    return comm.gathered(F.pad(logits, (0, rows - logits.shape[1])), tp) if tp.size > 1 else logits

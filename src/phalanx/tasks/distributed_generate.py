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
from phalanx.run.folder import RunFolder
from phalanx.run.import_record import ImportRecord
from phalanx.tasks.distributed_model import distributed_model, layout_of


@contextmanager
def distributed_generator(run: Path, overrides: Sequence[str]) -> Iterator[DecoderModel]:
    """The run's model by `overrides` such as layout.tp=2, which every process calls alike and all use alike."""
    layout = layout_of(run, overrides).layout
    if layout.pp > 1 or layout.cp > 1 or layout.dp > 1 or layout.shard != "none":
        raise InputError("generation is laid out by layout.tp alone; leave out the other layout words")
    with distributed_model(run, [*overrides, "layout.sequence_parallel=false"]) as judged:
        record = ImportRecord.read(RunFolder(judged.run))  # says what begins and ends a text
        bundle = ModelBundle(judged.run, judged.model, judged.tokenizer, judged.config, judged.restored, record)
        rows = judged.config.model.padded_vocab // judged.mesh.tp.size

        def gather(logits: Tensor) -> Tensor:
            return _whole(logits, rows, judged.mesh.tp)

        decoder = Decoder(judged.model, judged.tokenizer.vocab, enable_cache(judged.model), gather)
        yield DecoderModel(bundle, decoder=decoder)


def _whole(logits: Tensor, rows: int, tp: Axis) -> Tensor:
    """Each rank's words [tokens, held] side by side: the last rank holds fewer."""
    return comm.gathered(F.pad(logits, (0, rows - logits.shape[1])), tp) if tp.size > 1 else logits

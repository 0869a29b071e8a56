"""Export of a run's model as an ONNX file: infer/traced.py describes its inputs and outputs."""

from pathlib import Path
from tempfile import TemporaryDirectory

from phalanx import durable
from phalanx.errors import InputError
from phalanx.infer.bundle import load_bundle
from phalanx.infer.traced import TracedDecoder, TracedEncoder, TracedModel, onnx_program, untraceable


def export_run(run: Path, out: Path, best: bool = True) -> list[str]:
    """Write the graph of a run's model, its weights inside or, past 2 GB, beside. Returns the names of its outputs."""
    _must_be_absent(out)
    bundle = load_bundle(run, best)
    if reason := untraceable(bundle.spec):
        raise InputError(f"{run}: {reason}")
    traced: TracedModel = TracedDecoder(bundle) if bundle.spec.causal else TracedEncoder(bundle)
    program = onnx_program(traced)

    data = out.with_name(out.name + ".data")  # as torch names what is beside
    if apart := traced.size() > 1 << 31:
        _must_be_absent(data)
    with TemporaryDirectory(prefix=f"{out.name}.", suffix=".partial", dir=out.parent) as beside:
        program.save(str(Path(beside) / out.name), external_data=apart)
        for file in [data, out] if apart else [out]:
            durable.rename(Path(beside) / file.name, file)
    return list(traced.outputs)


def _must_be_absent(path: Path) -> None:
    if path.exists():
        raise InputError(f"{path} is there already; give another file")

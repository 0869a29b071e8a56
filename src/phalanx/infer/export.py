"""A run's model as an ONNX file: infer/graphs.py says what it takes and gives."""

from pathlib import Path

from phalanx import durable
from phalanx.errors import InputError
from phalanx.infer.graphs import GRAPHS, onnx_program
from phalanx.infer.loaded import load


def export_run(run: Path, out: Path, best: bool = True) -> list[str]:
    """Write the graph of a run's model, its weights inside or, past 2 GB, beside; the names of its outputs."""
    if out.exists():
        raise InputError(f"{out} is there already; give another file")
    loaded = load(run, best)
    model = loaded.config.model
    if model.family not in GRAPHS:
        raise InputError(f"{run} is a {model.family}, whose graph is not known here; gpt2 and bert are")
    graph = GRAPHS[model.family](loaded)
    program = onnx_program(graph)
    beside = out.with_name(out.name + ".partial.onnx")
    program.save(str(beside), external_data=graph.size() > 1 << 31)
    durable.rename(beside, out)
    return list(graph.outputs)

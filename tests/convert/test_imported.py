"""A run made of another program's model: whole, and of one model alone."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from phalanx.convert.imported import write_run
from phalanx.errors import InputError
from phalanx.infer import brought
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder
from phalanx.run.import_record import ModelSource
from tests.convert.folders import MODELS, config_of, tokenizer_of
from tests.infer.runs import build


@pytest.mark.parametrize("before", ["nothing", "an empty folder"])
def test_of_two_imports_at_once_one_makes_the_run(tmp_path: Path, before: str) -> None:
    """The other is told so, and nothing of it is left."""
    state, out = build(MODELS["gpt2"], 1, torch.device("cpu")).state_dict(), tmp_path / "run"
    if before == "an empty folder":
        out.mkdir()

    def importing(read: dict[str, Tensor]) -> None:
        write_run(out, config_of("gpt2"), tokenizer_of("gpt2").json(), read, read.__getitem__)

    class Meanwhile(dict[str, Tensor]):
        def __getitem__(self, name: str) -> Tensor:
            if not (out / "config.toml").exists():
                importing(state)
            return torch.zeros_like(state[name])

    with pytest.raises(InputError, match=f"^{out} is there already"):
        importing(Meanwhile(state))
    assert [*tmp_path.iterdir()] == [out]
    weights = Checkpointer(RunFolder.open(out)).weights()
    assert all(torch.equal(weights[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hf:", "'hf:' names no model; give a run, hf:FOLDER or gguf:FILE"),
        ("", "'' names no model; give a run, hf:FOLDER or gguf:FILE"),
        ("megatron:there", "megatron:there: make a run of it first: phalanx import megatron:there --out RUN"),
    ],
)
def test_a_source_that_is_no_model_to_use(text: str, said: str) -> None:
    with pytest.raises(InputError) as refused, brought(text):
        pass
    assert str(refused.value) == said
    assert [str(ModelSource.of(each)) for each in ("hf:a/b", "runs/of:it")] == ["hf:a/b", "runs/of:it"]

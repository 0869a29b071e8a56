"""A family from outside the package goes to a Hugging Face folder and back by its own table of names."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from phalanx.cli.app import app
from phalanx.config import Config, DataConfig
from phalanx.convert.huggingface import export_run, import_folder
from phalanx.errors import InputError
from phalanx.infer.bundle import load_bundle
from phalanx.models.family import configured
from phalanx.models.gpt2 import GPT2Config
from phalanx.models.hugging_face import HuggingFace
from phalanx.spec.links import Foreign, Names
from phalanx.spec.model import MLP, Spec
from tests.convert.folders import tokenizer_of
from tests.infer.runs import make_run

TOY, NAMELESS = "tests.convert.test_outside:Toy", "tests.convert.test_outside:Nameless"


class ToyConfig(GPT2Config):
    """What the network is: a GPT-2 with a gate, and a head of its own."""

    family: str = TOY
    inner: int = 12
    """Width of the gate."""

    def spec(self) -> Spec:
        spec = super().spec()
        gated = MLP(self.hidden, self.inner, "silu", gated=True, bias=False)
        (head,) = spec.heads
        ((path, matrix),) = head.chain
        return replace(
            spec, blocks=tuple(replace(block, feed_forward=gated) for block in spec.blocks),
            heads=(replace(head, chain=((path, replace(matrix, tied="")),)),),
        )  # fmt: skip


NAMES = Names(
    block="toy.layers.{}.",
    blocks={
        "norm1": "first", "attention.qkv": "mix.{q,k,v}", "attention.out": Foreign("mix.out", transposed=True),
        "norm2": "second", "feed_forward.up": Foreign("mlp.both", order="turns"), "feed_forward.down": "mlp.down",
    },
    once={
        "transformer.embeddings.token": "toy.words", "transformer.embeddings.position": "toy.places",
        "transformer.norm": "toy.last",
    },
    heads={"lm": {"head": "words_out"}},
    stem="toy.",
)  # fmt: skip
KEYS = {"vocab": "vocab_size", "layers": "depth", "hidden": "width", "heads": "heads", "inner": "inner",
        "positions": "longest"}  # fmt: skip


class Toy:
    """A family with names at Hugging Face."""

    TASK, Config = "clm", ToyConfig
    PRESETS: Mapping[str, Any] = {}
    HUGGING_FACE: Mapping[str, HuggingFace] = {
        "toy": HuggingFace(NAMES, "ToyForCausalLM", KEYS, lambda _: {}, lambda _: {"scaled": True},
                           {"scaled": True})
    }  # fmt: skip


class Nameless(Toy):
    """A family without any."""

    HUGGING_FACE: Mapping[str, HuggingFace] = {}


def make(folder: Path, family: str = TOY) -> Path:
    """A run of the toy family."""
    model = configured(family=TOY, layers=2, hidden=8, heads=2, positions=16, vocab=27)
    config = Config(task="clm", model=model.model_copy(update={"family": family}), data=DataConfig(sequence=16))
    tokenizer_of("gpt2").save(folder / "letters.json")
    make_run(folder / "run", config, str(folder / "letters.json"))
    return folder / "run"


def test_there_and_back_is_bit_equal(tmp_path: Path) -> None:
    export_run(make(tmp_path), tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "config.json").read_text())
    there = load_file(tmp_path / "out" / "model.safetensors")
    assert (facts["model_type"], facts["inner"], facts["scaled"]) == ("toy", 12, True)
    assert there["words_out.weight"].shape == (27, 8) and there["toy.layers.1.mlp.both.weight"].shape == (24, 8)

    words = ["import", f"hf:{tmp_path / 'out'}", "--out", str(tmp_path / "back")]
    told = CliRunner().invoke(app, [*words, "--family", TOY])
    assert told.exit_code == 0, told.exception
    one, other = (load_bundle(tmp_path / name) for name in ("run", "back"))
    assert other.config.model.family == TOY and other.config.model.spec() == one.config.model.spec()
    theirs = other.model.state_dict()
    rows = {"transformer.embeddings.token.weight", "head.weight"}  # their padding is drawn in one, zero in the other
    for name, tensor in one.model.state_dict().items():
        size = 27 if name in rows else len(tensor)
        assert torch.equal(tensor[:size], theirs[name][:size]), name


def test_what_is_lacking_is_one_line(tmp_path: Path) -> None:
    run = make(tmp_path)
    export_run(run, tmp_path / "out")
    with pytest.raises(InputError, match="model_type 'toy' is not known here"):
        import_folder(tmp_path / "out", tmp_path / "back")
    facts = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps({**facts, "scaled": False}))
    with pytest.raises(InputError, match="scaled=False is not known here"):
        import_folder(tmp_path / "out", tmp_path / "back", outside=TOY)
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="which Hugging Face does not have; gpt2"):
        export_run(make(tmp_path / "other", NAMELESS), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_table_with_a_gap_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    less = NAMES._replace(blocks={here: there for here, there in NAMES.blocks.items() if here != "norm2"})
    monkeypatch.setitem(Toy.HUGGING_FACE, "toy", replace(Toy.HUGGING_FACE["toy"], names=less))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"transformer\.blocks\.0\.norm2\.weight, for which Hugging Face's toy has no"):
        export_run(make(tmp_path), tmp_path / "out")

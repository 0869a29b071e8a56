"""Slips of those who write for Phalanx from outside: each is told in one line that says what and where."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from phalanx.convert.huggingface import import_folder
from phalanx.errors import InputError
from phalanx.spec.model import Spec
from tests.strangers.families import ToyConfig
from tests.strangers.names import NamedToy


def test_a_folder_of_a_family_whose_description_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"model_type": "toy", "architectures": ["ToyForCausalLM"], "vocab_size": 9, "max_position": 8, "width": 16}
    facts |= {"depth": 1, "heads": 4, "kv_heads": 2, "mlp_width": 8, "epsilon": 1e-5, "dropout": 0.0}
    (tmp_path / "config.json").write_text(json.dumps(facts | {"activation": "silu"}))
    save_file({"words.weight": torch.zeros(9, 16)}, tmp_path / "model.safetensors")
    right = ToyConfig.spec

    def refusal(spec: Any) -> str:
        monkeypatch.setattr(ToyConfig, "spec", spec)
        with pytest.raises(InputError) as caught:
            import_folder(tmp_path, tmp_path / "run", outside=f"{NamedToy.__module__}:NamedToy")
        return str(caught.value)

    def narrow(model: ToyConfig) -> Spec:
        spec = right(model)
        return replace(spec, blocks=(replace(spec.blocks[0], attention=None),))  # type: ignore[arg-type]

    assert "its spec: transformer.blocks.0.attention is None, not Attention" in refusal(narrow)
    assert "spec() is to return a phalanx.spec.model.Spec, not NoneType" in refusal(lambda model: None)
    assert "spec() raised ZeroDivisionError" in refusal(lambda model: 1 // 0)
    assert "lacks the tensor places" in refusal(right)

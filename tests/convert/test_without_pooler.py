"""A BERT that only fills masks: transformers saves it without the pooler, which only pairs need."""

from pathlib import Path

from transformers import BertConfig, BertForMaskedLM

from phalanx.convert.huggingface import import_folder
from phalanx.data.tokenize import load_tokenizer
from phalanx.infer import brought


def test_a_folder_without_the_pooler(tmp_path: Path) -> None:
    """It is a head like others: named as missing, and no reason to refuse the folder."""
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    BertForMaskedLM(config).save_pretrained(tmp_path / "hf")
    (tmp_path / "hf" / "tokenizer.json").write_text(load_tokenizer("bert-uncased").json(), encoding="utf-8")
    imported = import_folder(tmp_path / "hf", tmp_path / "run")
    assert "pair.pooler.weight" in imported.missing
    with brought(f"hf:{tmp_path / 'hf'}", scratch=str(tmp_path)) as run:
        assert run.is_relative_to(tmp_path)

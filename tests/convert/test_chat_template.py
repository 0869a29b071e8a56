"""The chat template of an imported folder is kept, and goes out again."""

import json
from pathlib import Path
from typing import Any

import pytest

from phalanx.convert.huggingface import export_run, import_folder
from phalanx.errors import InputError
from phalanx.run.folder import RunFolder
from phalanx.run.import_record import ImportRecord
from tests.convert.folders import write_folder

TEMPLATE = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
NAMED = [{"name": "tools", "template": "other"}, {"name": "default", "template": TEMPLATE}]


def kept(folder: Path, said: Any, jinja: str = "") -> str:
    """What is kept of a folder whose tokenizer_config.json has `said`, and which may have a file of its own."""
    write_folder(folder, "gpt2")
    facts = {"eos_token": "<|endoftext|>"} | ({} if said is None else {"chat_template": said})
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    if jinja:
        (folder / "chat_template.jinja").write_text(jinja)
    return ImportRecord.read(RunFolder(import_folder(folder, folder.parent / "run").run)).chat_template


@pytest.mark.parametrize(("said", "jinja"), [(TEMPLATE, ""), (NAMED, ""), ("other", TEMPLATE), (None, TEMPLATE)])
def test_a_template_is_kept_and_goes_out_again(said: Any, jinja: str, tmp_path: Path) -> None:
    """By its own file, else by tokenizer_config.json, of several the default."""
    assert kept(tmp_path / "hf", said, jinja) == TEMPLATE
    export_run(tmp_path / "run", tmp_path / "back")
    assert (tmp_path / "back" / "chat_template.jinja").read_text() == TEMPLATE


def test_without_one_there_is_none(tmp_path: Path) -> None:
    assert kept(tmp_path / "hf", None) == ""
    export_run(tmp_path / "run", tmp_path / "back")
    assert not (tmp_path / "back" / "chat_template.jinja").exists()


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tokenizer_config.json: chat_template=7 will not do: it is to be a text"):
        kept(tmp_path / "hf", 7)

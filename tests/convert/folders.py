"""Model folders of other programs' making, small enough to be damaged in thousands of ways."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import models
from torch import Tensor

from phalanx.config import Config, DataConfig, ExamplesConfig, ModelConfig
from phalanx.convert.config_json import facts_of, form_of
from phalanx.convert.linked import Linked, exported, imported
from phalanx.data.backend import BERT_SPECIALS, END_OF_TEXT, ROBERTA_SPECIALS, byte_level, mark, roberta, word_piece
from phalanx.data.tokenize import Tokenizer
from phalanx.models.build import build
from phalanx.models.family import configured, spec_of
from phalanx.spec.links import bare, links

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = [*BERT_SPECIALS, *LETTERS, *(f"##{letter}" for letter in LETTERS), *".,?!'-0123456789"]
SMALL = {"layers": 2, "hidden": 8, "heads": 2, "positions": 32, "pad_vocab_to": 1, "norm_eps": 1e-5}
MODELS = {
    "gpt2": configured(family="gpt2", vocab=27, **SMALL),
    "bert": configured(family="bert", vocab=len(PIECES), segments=2, norm_first=False, gelu="erf", head="classes",
                       classes=3, **SMALL),
    "megatron-bert": configured(family="bert", vocab=len(PIECES), segments=2, norm_first=True, gelu="erf", **SMALL),
    "roberta": configured(family="roberta", vocab=31, **SMALL),
    "modernbert": configured(family="modernbert", vocab=len(PIECES), **SMALL),
    "distilbert": configured(family="distilbert", vocab=len(PIECES), **SMALL | {"norm_eps": 1e-12}),
}  # fmt: skip


def tokenizer_of(kind: str) -> Tokenizer:
    """Letters as tokens, and the special ones of the family."""
    if kind == "gpt2":
        vocab = {END_OF_TEXT: 0} | {letter: number for number, letter in enumerate(LETTERS, 1)}
        return Tokenizer(mark(byte_level(models.BPE(vocab, [])), [END_OF_TEXT]), "letters")
    if kind.endswith("roberta"):
        vocab = {piece: number for number, piece in enumerate([*ROBERTA_SPECIALS, *LETTERS])}
        return Tokenizer(roberta(byte_level(models.BPE(vocab, [], unk_token="<unk>"))), "letters")
    vocab = {piece: number for number, piece in enumerate(PIECES)}
    return Tokenizer(mark(word_piece(models.WordPiece(vocab, unk_token="[UNK]"), True), BERT_SPECIALS), "letters")


def config_of(kind: str) -> Config:
    """The run that such a folder becomes."""
    model = MODELS[kind]
    head = spec_of(model).tuned
    examples = ExamplesConfig(labels=("bad", "so so", "good")) if head else ExamplesConfig()
    task = head or ("clm" if kind == "gpt2" else "mlm")
    return Config(task=task, model=model, data=DataConfig(sequence=model.positions), examples=examples)


def to_hugging_face(state: Mapping[str, Tensor], model: ModelConfig) -> Linked:
    """A model's weights under Hugging Face's names."""
    return exported(links(spec_of(model), form_of(model, "the model")[1].names), state)


def from_hugging_face(state: Mapping[str, Tensor], model: ModelConfig) -> Linked:
    """A model's weights of those of Hugging Face's class, or of its stack alone; of what is not there, none."""
    names = form_of(model, "the model")[1].names
    for known in names, bare(names):
        found = [link for link in links(spec_of(model), known) if link.theirs.name in state]
        if found:
            return imported(found, state)
    raise AssertionError("not one tensor has a place")


def write_folder(folder: Path, kind: str) -> None:
    """A whole folder, as `from_pretrained` takes it: config.json, model.safetensors, tokenizer.json."""
    folder.mkdir()
    model, tokenizer = MODELS[kind], tokenizer_of(kind)
    state = build(model, 1, torch.device("cpu")).state_dict()
    save_file(dict(to_hugging_face(state, model)), folder / "model.safetensors", {"format": "pt"})
    tokenizer.save(folder / "tokenizer.json")
    (folder / "config.json").write_text(json.dumps(facts_of(config_of(kind), tokenizer)))

"""Tokenizers: text to ids and back, offline, the same ids whichever library computes them.

Each is one of the `tokenizers` library; in bulk, tiktoken or a memory of words stands in. Names of special tokens
inside a text are plain text, so no document can forge an end of text or a mask; a tokenizer of `for_prompts` takes them
for those tokens, as transformers does.
"""

import hashlib
import json
import lzma
from collections.abc import Sequence
from copy import copy
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from phalanx import durable
from phalanx.data.backend import REMEDY, read_file, read_folder, whole_file
from phalanx.data.fastpath import FastPath, fast_path, is_gpt2_like
from phalanx.data.piece_cache import local_copy
from phalanx.data.remote import RemotePath
from phalanx.data.source_names import is_remote
from phalanx.data.special import UNKNOWN, Roles, document_end, marked, roles_in, says_more, tell, usual
from phalanx.data.words import Words, is_bert_like
from phalanx.errors import InputError
from phalanx.foreign import reading
from phalanx.registry import TOKENIZERS

Array = np.ndarray[Any, np.dtype[Any]]


class Frame(NamedTuple):
    """The ids of the special tokens around an encoder's texts: `begin` text `end`, or `begin` text `between` text
    `end`.
    """

    begin: tuple[int, ...]
    between: tuple[int, ...]
    end: tuple[int, ...]


class Tokenizer:
    """Text to ids and back. `vocab` counts the ids; a special id is None where the tokenizer has no such token.

    `named` says whether names of special tokens in a text, such as [MASK], stand for those tokens. `roles` are the
    special tokens by what they are for (phalanx.data.special), where more is told than their names do. `source` is the
    tokenizer.json from which `backend` was read.
    """

    def __init__(
        self, backend: Backend, name: str, named: bool = False, roles: Roles | None = None, source: bytes = b""
    ) -> None:
        backend.encode_special_tokens = not named
        backend.no_truncation()
        backend.no_padding()
        self.name, self.named, self.roles = name, named, roles or {}
        self._backend, self._source = backend, source if isinstance(backend.model, models.Unigram) else b""
        self.vocab = max(backend.get_vocab().values(), default=-1) + 1

        self.document_end = document_end(backend, self.roles)
        self.eod = self._id(self.document_end.token)
        self.eos, self.bos = self._id(self.roles.get("eos")), self._id(self.roles.get("bos"))
        self.mask, self.cls, self.sep, self.pad = (
            self._id(self.roles.get(role) or usual(backend, role)) for role in ("mask", "cls", "sep", "pad")
        )
        self.unk = next((i for name in UNKNOWN if (i := self._id(name)) is not None), None)

    def for_prompts(self) -> "Tokenizer":
        """Return it for what users ask a model: names of special tokens in a text stand for those tokens."""
        return self if self.named else self._for_prompts

    @property
    def around(self) -> list[str]:
        """The special tokens that its own template puts around a text: `encode` leaves them out."""
        return list(self._backend.encode("", add_special_tokens=True).tokens)

    @cached_property
    def begin(self) -> list[int]:
        """Ids of the special tokens that its own template puts before a text, as Llama's `<s>`."""
        encoding = self._backend.encode("a", add_special_tokens=True)
        marks = encoding.special_tokens_mask
        return list(encoding.ids[: marks.index(0)]) if 0 in marks else []

    @cached_property
    def frame(self) -> Frame | None:
        """The special tokens that its own template puts around texts and between two, as RoBERTa's <s> and </s></s>;
        without such a template [CLS] and [SEP] as BERT's, where it has them, else None.
        """
        encoding = self._backend.encode("a", "a", add_special_tokens=True)
        ids, whose = encoding.ids, encoding.sequence_ids
        if 0 in whose and 1 in whose:
            first, second = whose.index(0), whose.index(1)
            last = len(whose) - whose[::-1].index(1)
            between = ids[first + whose.count(0) : second]
            if first and between and last < len(ids):
                return Frame(tuple(ids[:first]), tuple(between), tuple(ids[last:]))
        return None if self.cls is None or self.sep is None else Frame((self.cls,), (self.sep,), (self.sep,))

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids that end what a model writes: the end of sequence that is told, and what ends a document."""
        return tuple(dict.fromkeys(i for i in (self.eos, self.eod) if i is not None))

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of the text with the special tokens of the tokenizer's template around it, as
        Llama's `<s>`. A text that begins with that already, as chats do that a template wrote, gets no second one.
        """
        ids, n = list(self._backend.encode(text, add_special_tokens=True).ids), len(self.begin)
        return ids[n:] if n and ids[n : 2 * n] == self.begin else ids

    def same_ids(self, other: "Tokenizer") -> bool:
        """Return whether both give every text the same ids, whatever each takes its special tokens for."""
        return self._unmarked == other._unmarked

    def made(self, sha256: str) -> bool:
        """Return whether this is the SHA-256 of its tokenizer.json, with the roles of special tokens or without."""
        return sha256 in {hashlib.sha256(text.encode()).hexdigest() for text in (self._json, self._unmarked)}

    def encode(self, text: str) -> list[int]:
        """Return the ids of the text alone."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def known(self, ids: Sequence[int]) -> list[int]:
        """Return the ids as they are. InputError for one that is not of this vocabulary."""
        for i in ids:
            if not 0 <= i < self.vocab:
                raise InputError(f"token {i} is not in the vocabulary: this model's tokens are 0 to {self.vocab - 1}")
        return [*ids]

    def encode_places(self, text: str) -> tuple[Array, Array]:
        """Return the ids of a text, int64 [n], and where each begins and ends in it, in characters: int64 [n, 2]."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        return np.array(encoding.ids, np.int64), np.array(encoding.offsets, np.int64).reshape(-1, 2)

    def encode_joined(self, texts: Sequence[str]) -> tuple[Array, Array]:
        """Return the ids of all texts back to back, uint32, and how many each text has, int64."""
        lowered = (text.lower() for text in texts)
        if self.named and any(name in low for low in lowered for name in self._specials.values()):
            return self._encode_slowly(texts)
        if self._fast is not None and texts and (encoded := self._fast.encode(texts)):
            return encoded
        return self._words.encode(texts) if self._words else self._encode_slowly(texts)

    def decode(self, ids: Sequence[int] | Array) -> str:
        """Return the text of some ids; special tokens come out by name."""
        return str(self._backend.decode([int(i) for i in ids], skip_special_tokens=False))

    def token(self, i: int) -> str:
        """Return one token as the vocabulary writes it."""
        return str(self._backend.id_to_token(i))

    def json(self) -> str:
        """Return the whole tokenizer as the text of a tokenizer.json; equal tokenizers give equal texts."""
        return self._json

    def save(self, path: str | Path) -> None:
        """Write a tokenizer.json."""
        durable.write(Path(path), self.json().encode())

    @cached_property
    def starts_word(self) -> Array:
        """bool [vocab]: the piece begins a word. Whole-word masks need it."""
        pieces = [self._backend.id_to_token(i) or "" for i in range(self.vocab)]
        if isinstance(self._backend.model, models.WordPiece):
            return np.array([not piece.startswith(self._backend.model.continuing_subword_prefix) for piece in pieces])
        return np.array([piece.startswith(("Ġ", "▁")) for piece in pieces])

    @cached_property
    def marks_blanks(self) -> bool:
        """Whether a word has other ids behind a blank than where a text begins, as in byte-level BPE."""
        bare, behind = self.encode("a"), self.encode(" a")
        return bool(bare and behind and self.starts_word[behind[0]] and not self.starts_word[bare[0]])

    @cached_property
    def unreachable(self) -> frozenset[int]:
        """Ids that no text has. They are known for WordPiece alone: a piece that begins a word is there for a text that
        is this piece, or for none.
        """
        if not isinstance(self._backend.model, models.WordPiece):
            return frozenset()
        first = [i for i in np.flatnonzero(self.starts_word).tolist() if i not in self._specials]
        encodings = self._backend.encode_batch_fast([self.token(i) for i in first], add_special_tokens=False)
        return frozenset(i for i, encoding in zip(first, encodings, strict=True) if encoding.ids != [i])

    @cached_property
    def cuttable(self) -> bool:
        """Whether a text may be cut before any blank that follows a non-blank without a change of ids."""
        return isinstance(self._backend.pre_tokenizer, pre_tokenizers.BertPreTokenizer) or is_gpt2_like(self._backend)

    @property
    def frees_lock(self) -> bool:
        """Whether threads can encode side by side, each on one core; else processes do it better."""
        return self._fast is not None

    @cached_property
    def _for_prompts(self) -> "Tokenizer":
        return Tokenizer(Backend.from_str(self._json), self.name, True, self.roles, self._json.encode())

    @cached_property
    def _specials(self) -> dict[int, str]:
        """Names of special tokens in lower case, as some are found in a text that was brought to it."""
        added = self._backend.get_added_tokens_decoder()
        return {i: token.content.lower() for i, token in added.items() if token.special}

    @cached_property
    def _fast(self) -> FastPath | None:
        return fast_path(self._backend, json.loads(self._json))

    @cached_property
    def _json(self) -> str:
        return marked(self._unmarked, self._backend, self.roles)

    @cached_property
    def _unmarked(self) -> str:
        """The text of a tokenizer.json, without roles. The library reads the scores of unigram pieces not to the last
        digit, so they are taken from where it read them: a copy of a copy is the same.
        """
        text = str(self._backend.to_str())
        if not isinstance(self._backend.model, models.Unigram):
            return text
        facts = json.loads(text)
        if self._source:
            facts["model"]["vocab"] = json.loads(self._source)["model"]["vocab"]
        return json.dumps(facts, ensure_ascii=False, separators=(",", ":"))

    @cached_property
    def _words(self) -> Words | None:
        return Words(self._backend) if is_bert_like(self._backend) else None

    def _encode_slowly(self, texts: Sequence[str]) -> tuple[Array, Array]:
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        ids = [np.array(encoding.ids, np.uint32) for encoding in encodings]
        lengths = np.array([len(part) for part in ids], np.int64)
        return np.concatenate([np.array([], np.uint32), *ids]), lengths

    def _id(self, token: str | None) -> int | None:
        return None if token is None else self._backend.token_to_id(token)


@lru_cache
def _bundled(name: str) -> Tokenizer:
    """Return a bundled tokenizer, read once in a process: unpacking it and building its fast path takes longer than a
    small preparation.
    """
    packed = files("phalanx").joinpath("assets", "tokenizers", f"{name}.json.xz").read_bytes()
    return Tokenizer(Backend.from_str(lzma.decompress(packed).decode()), name)


@lru_cache(maxsize=4)
def _parsed(content: bytes) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json, read once in a process: a command meets it beside its data and again in
    its run.
    """
    return Tokenizer(Backend.from_buffer(content), "", roles=roles_in(content), source=content)


def load_run_tokenizer(file: Path, vocab: int) -> Tokenizer:
    """Load the tokenizer of a run whose model knows `vocab` tokens. InputError where the tokenizer has more."""
    tokenizer = load_tokenizer(str(file))
    if tokenizer.vocab > vocab:
        raise InputError(
            f"{file} has {tokenizer.vocab} tokens, the model of {file.parent} only {vocab}; put back the tokenizer it "
            "was trained with"
        )
    return tokenizer


def load_tokenizer(name_or_path: str) -> Tokenizer:
    """Return a bundled tokenizer by name, or one from a tokenizer.json, a folder that holds one, or one that
    `read_folder` can read. Raises InputError.
    """
    if name_or_path in TOKENIZERS:
        return _bundled(name_or_path)
    path = local_copy(RemotePath(name_or_path)) if is_remote(name_or_path) else Path(name_or_path)
    if not path.exists():
        raise InputError(
            f"no tokenizer {name_or_path!r}: give {', '.join(TOKENIZERS)}, or a tokenizer.json or its folder"
        )

    file = whole_file(path)
    if file and not says_more(file):
        with reading(file, REMEDY):
            tokenizer = copy(_parsed(file.read_bytes()))
        tokenizer.name = name_or_path
    else:
        backend, source = read_file(file) if file else (read_folder(path), b"")
        roles = tell(backend, file.parent if file else path)
        tokenizer = Tokenizer(backend, name_or_path, roles=roles, source=source)
    if not tokenizer.vocab:
        raise InputError(f"{file or path} is a tokenizer without a vocabulary; give the one that the model has")
    return tokenizer

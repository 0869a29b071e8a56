"""A `tokenizer.model` as a tokenizer of the `tokenizers` library: sentencepiece's protobuf, or tiktoken's ranks.

Of the protobuf (sentencepiece_model.proto) a few fields of three messages are needed, which the wire format gives in a
few lines: pieces with scores and types, the kind of model, and what is done to a text before.
"""

import re
import struct
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from phalanx.data.fastpath import byte_letters
from phalanx.data.pretokens import LLAMA3
from phalanx.data.template import put_around
from phalanx.errors import InputError
from phalanx.foreign import ANEW, reading, unreadable

MODEL_FILE = "tokenizer.model"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of pieces
SPACE = "▁"
UNIGRAM, BPE = 1, 2  # kinds of models; there are words and characters too
RANKED = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")  # a line of tiktoken's
LLAMA3_RANKS, LLAMA3_RESERVED = 128_000, 251

Fields = dict[int, list[Any]]  # the values of a message by the number of their field


def read_model(file: Path, specials: bool = True) -> Backend:
    """Return the tokenizer of a tokenizer.model. If it is BPE, texts begin with its begin token, as Llama's. A file of
    tiktoken's has no special tokens: with `specials` Llama 3's are added. InputError for a file that is damaged, and
    for kinds of models that are not known here.

    The library's unigram, as that of transformers, takes the name of a control piece in a text for this piece.
    """
    with reading(file):
        content = file.read_bytes()
    if RANKED.match(content):
        return _with_llama3(_ranked(file, content)) if specials else _ranked(file, content)

    try:
        message = _message(content)
        trainer, normal = (_message(message[number][0]) for number in (2, 3))
        pieces = [_message(piece) for piece in message[1]]
        names = [piece[1][0].decode() for piece in pieces]
        scores = [struct.unpack("<f", piece.get(2, [b"\0" * 4])[0])[0] for piece in pieces]
    except (IndexError, KeyError, ValueError, struct.error, AttributeError):
        raise unreadable(file, "no model of sentencepiece, no ranks of tiktoken", ANEW) from None

    types = [int(piece.get(3, [NORMAL])[0]) for piece in pieces]
    kind, fallback = trainer.get(3, [UNIGRAM])[0], bool(trainer.get(35, [0])[0])
    unknown = trainer.get(40, [0])[0]
    if kind not in (UNIGRAM, BPE) or len({*names}) != len(names) or not 0 <= unknown < len(names):
        raise InputError(f"{file}: a model of sentencepiece's kind {kind} is not known here; unigram and bpe are")

    with reading(file):
        if kind == BPE:
            model: Any = score_bpe(names, types, scores, names[unknown], fallback)
        else:
            model = models.Unigram([*zip(names, scores, strict=True)], unknown, fallback)
        backend = surfaced(Backend(model), bool(normal.get(3, [1])[0]), normal)
    add_pieces(backend, names, types)

    begin = trainer.get(41, [1])[0]
    if kind == BPE and begin < len(names) and types[begin] == CONTROL:
        put_around(backend, names[begin], None)
    return backend


def score_bpe(
    names: Sequence[str], types: Sequence[int], scores: Sequence[float], unknown: str | None, fallback: bool = True
) -> models.BPE:
    """Return sentencepiece's BPE of pieces by their ids: the neighbours that make the piece of the best score are
    merged first; with `fallback` letters that are no piece are bytes.
    """
    vocabulary = {name: i for i, name in enumerate(names)}
    merges = _merges(vocabulary, types, scores)
    return models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=fallback)


def surfaced(backend: Backend, prefix: bool, normal: Fields | None = None) -> Backend:
    """Have a tokenizer of pieces write blanks as sentencepiece does, one more before a text if `prefix`; `normal` are
    the fields of a NormalizerSpec, of which characters may be replaced and blanks left out.
    """
    before: list[Any] = []
    if normal and (characters := normal.get(2, [b""])[0]):
        before.append(normalizers.Precompiled(characters))
    if normal is not None and normal.get(4, [1])[0]:
        before += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    before += [normalizers.Prepend(SPACE)] if prefix else []
    backend.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", SPACE)])
    after = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *after]
    )
    return backend


def add_pieces(backend: Backend, names: Sequence[str], types: Sequence[int]) -> None:
    """Tell a tokenizer which pieces are special, and which stand for themselves in any text."""
    for special, kind in (True, CONTROL), (False, USER_DEFINED):
        chosen = [name for name, each in zip(names, types, strict=True) if each == kind]
        added = [AddedToken(name, special=special, normalized=False) for name in chosen]
        (backend.add_special_tokens if special else backend.add_tokens)(added)


def _merges(vocabulary: Mapping[str, int], types: Sequence[int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Return the pairs that make pieces: those of the best piece first, those of one by their parts' ids."""
    pairs = []
    for piece, i in vocabulary.items():
        if types[i] not in (NORMAL, USER_DEFINED):
            continue
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                pairs.append((-scores[i], i, vocabulary[left], vocabulary[right], left, right))
    return [(left, right) for *_, left, right in sorted(pairs)]


def _ranked(file: Path, content: bytes) -> Backend:
    """Return the byte-level BPE of a file of tiktoken's. It has ranks alone: Llama 3's are known by their number."""
    with reading(file):
        lines = [line.split() for line in content.splitlines() if line]
        ranks = {b64decode(token): int(rank) for token, rank in lines}
    if len(ranks) != LLAMA3_RANKS:
        raise InputError(
            f"{file} has {len(ranks):,} ranks of tiktoken but not how texts are cut, which is known of Llama 3's "
            f"{LLAMA3_RANKS:,}; put a tokenizer.json beside it"
        )

    letters = str.maketrans({chr(byte): letter for letter, byte in byte_letters().items()})
    names = {token: token.decode("latin-1").translate(letters) for token in ranks}
    merges = [
        (names[token[:cut]], names[token[cut:]])
        for token in sorted(ranks, key=ranks.__getitem__)
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]
    backend = Backend(models.BPE({names[token]: i for token, i in ranks.items()}, merges, ignore_merges=True))
    words: Any = [
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Sequence(words), decoders.ByteLevel()

    return backend


def _with_llama3(backend: Backend) -> Backend:
    """Add Llama 3's special tokens, of which one begins every text."""
    named = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}
    reserved = (f"reserved_special_token_{i}" for i in range(LLAMA3_RESERVED))
    backend.add_special_tokens([f"<|{named.get(i) or next(reserved)}|>" for i in range(LLAMA3_RESERVED + len(named))])
    return put_around(backend, "<|begin_of_text|>", None)


def _message(content: bytes) -> Fields:
    """Return the fields of a message in protobuf's wire format. ValueError or IndexError where it is none."""
    fields: Fields = {}
    for number, value in _values(content):
        fields.setdefault(number, []).append(value)
    return fields


def _values(content: bytes) -> Iterator[tuple[int, Any]]:
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = content[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value - (1 << 64) if value >> 63 else value

    while place < len(content):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}[key & 7] if key & 7 != 2 else varint()
        if not 0 <= size <= len(content) - place:
            raise ValueError("cut off")
        yield key >> 3, content[place : place + size]
        place += size

"""Learn a tokenizer from text: byte-level BPE as GPT-2's or RoBERTa's, or WordPiece as BERT's."""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from phalanx.data.backend import BERT_SPECIALS, END_OF_TEXT, ROBERTA_SPECIALS, byte_level, mark, roberta, word_piece
from phalanx.data.chunks import CHUNK, read_chunks
from phalanx.data.documents import Reading
from phalanx.data.inputs import find_files
from phalanx.data.journal import Cursor, left_out
from phalanx.data.meter import Meter
from phalanx.data.remote import AnyPath
from phalanx.data.streams import UTF_8, known_encoding
from phalanx.data.tokenize import Tokenizer
from phalanx.errors import InputError

KINDS = ("bpe", "roberta", "wordpiece", "wordpiece-cased")
SMALLEST = 300  # bytes or letters, special tokens, and room to learn something
LARGEST = 10_000_000
LEARNING = "learning"
SEEN = 2  # times a pair must occur to become a piece


class Text(NamedTuple):
    """Where texts lie in JSONL, Parquet and Arrow, the encoding of plain text, and the split of data sets."""

    key: str = "text"
    encoding: str = UTF_8
    split: str = ""


TEXT = Text()


def train_tokenizer(
    inputs: Sequence[str], kind: str, vocab: int, out: str, text: Text = TEXT, force: bool = False
) -> Tokenizer:
    """Learn a tokenizer of at most `vocab` pieces from files, folders or globs, and write it to `out` (….json).

    `kind` is bpe (end of text is <|endoftext|>), roberta (the same with RoBERTa's special tokens), wordpiece
    (lower-casing) or wordpiece-cased. The same text gives the same tokenizer. Raises InputError.
    """
    if kind not in KINDS:
        raise InputError(f"unknown kind of tokenizer {kind!r}; choose {', '.join(KINDS)}")
    if not SMALLEST <= vocab <= LARGEST:
        raise InputError(f"a vocabulary of {vocab:,} will not do; give {SMALLEST} to {LARGEST:,}")
    if Path(out).suffix != ".json":
        raise InputError(f"--out {out}: give the name of a .json file")
    if Path(out).exists() and not force:
        raise InputError(f"{out} exists; --force replaces it")

    files = find_files(inputs, [Path(out)], text.split)
    reading = Reading("file", text.key, CHUNK, False, known_encoding(text.encoding), spare_lines=True)
    if kind in ("bpe", "roberta"):
        backend = _byte_level(files, reading, vocab, ROBERTA_SPECIALS if kind == "roberta" else (END_OF_TEXT,))
        backend = roberta(backend) if kind == "roberta" else backend
    else:
        backend = _word_piece(files, reading, vocab, lowercase=kind == "wordpiece")

    Path(out).parent.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(backend, out)
    tokenizer.save(out)
    return tokenizer


def _byte_level(files: list[AnyPath], reading: Reading, vocab: int, specials: Sequence[str]) -> Backend:
    backend = byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        min_frequency=SEEN,
        special_tokens=[*specials],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_texts(files, reading, LEARNING), trainer)
    return backend


def _word_piece(files: list[AnyPath], reading: Reading, vocab: int, lowercase: bool) -> Backend:
    """Learn a WordPiece tokenizer. The library numbers the letters inside words as it meets them, in an order of chance
    that decides ties between pieces; so they are counted first, and given to it in order of their number.
    """
    learner = word_piece(models.WordPiece(unk_token="[UNK]"), lowercase)
    counts: Counter[str] = Counter()
    for texts in _texts(files, reading, "counting letters"):
        for text in texts:
            counts.update(learner.normalizer.normalize_str(text))

    ranked = sorted((letter for letter in counts if not letter.isspace()), key=lambda x: (-counts[x], x))
    letters = ranked[: vocab // 3]
    inside = [f"##{letter}" for letter in letters if unicodedata.category(letter)[0] not in "PS"]

    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab,
        min_frequency=SEEN,
        special_tokens=[*BERT_SPECIALS, *letters, *inside],
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        show_progress=False,
    )
    learner.train_from_iterator(_texts(files, reading, LEARNING), trainer)

    model = models.WordPiece(learner.get_vocab(), unk_token="[UNK]")
    return mark(word_piece(model, lowercase), BERT_SPECIALS)


def _texts(files: list[AnyPath], reading: Reading, what: str) -> Iterator[list[str]]:
    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    cursor = Cursor()
    with Meter(console, what, sum(path.stat().st_size for path in files)) as meter:
        for chunk in read_chunks(files, reading, cursor, strict=False):
            cursor = chunk.after or cursor
            meter.show(chunk.consumed, chunk.size)
            yield chunk.texts
    if not cursor.text_bytes:
        none = f"no text in {len(files)} input files{left_out(cursor)}"
        raise InputError(f"{none}, so there is nothing to learn from")
    if cursor.malformed and what == LEARNING:
        console.print(f"{what} from {cursor.text_bytes / 1e6:.3g} MB of text{left_out(cursor)}")

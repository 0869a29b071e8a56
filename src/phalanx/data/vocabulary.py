"""Learn a tokenizer from text: byte-level BPE as GPT-2's, or WordPiece as BERT's."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from tokenizers import models, pre_tokenizers, trainers

from phalanx.data.backend import BERT_SPECIALS, END_OF_TEXT, byte_level, word_piece
from phalanx.data.chunks import CHUNK, read_chunks
from phalanx.data.documents import Reading
from phalanx.data.inputs import find_files
from phalanx.data.journal import Progress
from phalanx.data.meter import Meter
from phalanx.data.tokenize import Tokenizer
from phalanx.errors import InputError

KINDS = ("bpe", "wordpiece", "wordpiece-cased")
SMALLEST = 300  # bytes or letters, special tokens, and room to learn something
SEEN = 2  # times a pair must occur to become a piece


def train_tokenizer(
    inputs: Sequence[str], kind: str, vocab: int, out: str, key: str = "text", force: bool = False
) -> Tokenizer:
    """Learn a tokenizer of at most `vocab` pieces from files, folders or globs, and write it to `out` (….json).

    `kind` is bpe (end of text is <|endoftext|>), wordpiece (lower-casing) or wordpiece-cased. The same text gives the
    same tokenizer. Raises InputError.
    """
    if kind not in KINDS:
        raise InputError(f"unknown kind of tokenizer {kind!r}; choose {', '.join(KINDS)}")
    if vocab < SMALLEST:
        raise InputError(f"a vocabulary of {vocab} is too small; give at least {SMALLEST}")
    if Path(out).suffix != ".json":
        raise InputError(f"--out {out}: give the name of a .json file")
    if Path(out).exists() and not force:
        raise InputError(f"{out} exists; --force replaces it")
    texts = _texts(find_files(inputs), key)
    if kind == "bpe":
        backend = byte_level(models.BPE())
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        backend.train_from_iterator(
            texts,
            trainers.BpeTrainer(
                vocab_size=vocab,
                min_frequency=SEEN,
                special_tokens=[END_OF_TEXT],
                initial_alphabet=alphabet,
                show_progress=False,
            ),
        )
    else:
        backend = word_piece(models.WordPiece(unk_token="[UNK]"), lowercase=kind == "wordpiece")
        backend.train_from_iterator(
            texts,
            trainers.WordPieceTrainer(
                vocab_size=vocab,
                min_frequency=SEEN,
                special_tokens=list(BERT_SPECIALS),
                limit_alphabet=vocab // 3,
                show_progress=False,
            ),
        )
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(backend, out)
    tokenizer.save(out)
    return tokenizer


def _texts(files: list[Path], key: str) -> Iterator[list[str]]:
    reading = Reading("file", key, CHUNK, by_paragraph=False)
    size = 0
    with Meter(Console(stderr=True), "learning", sum(path.stat().st_size for path in files)) as meter:
        for chunk in read_chunks(files, reading, Progress(), strict=False):
            size += chunk.size
            meter.show(chunk.consumed, chunk.size)
            yield chunk.texts
    if not size:
        raise InputError(f"no text in {len(files)} input files, so there is nothing to learn from")

"""The kinds of tokenizer that BERT, GPT-2 and RoBERTa use, as the `tokenizers` library builds and reads them."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from phalanx.data.sentencepiece import MODEL_FILE, read_model
from phalanx.errors import InputError
from phalanx.foreign import reading

END_OF_TEXT = "<|endoftext|>"
WHOLE, CONFIG = "tokenizer.json", "tokenizer_config.json"
REMEDY = "it is not a tokenizer that can be read"
BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def byte_level(model: models.BPE) -> Backend:
    """Return GPT-2's tokenizer around a BPE model."""
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def word_piece(model: models.WordPiece, lowercase: bool) -> Backend:
    """Return BERT's tokenizer around a WordPiece model."""
    backend = Backend(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def roberta(backend: Backend) -> Backend:
    """Make a byte-level tokenizer with RoBERTa's special tokens put these around texts, as <s> a </s></s> b </s>, and
    take a blank before <mask> for a part of it.
    """
    backend.add_special_tokens([*ROBERTA_SPECIALS[:-1], AddedToken("<mask>", lstrip=True)])
    begin, end = (("<s>", backend.get_vocab()["<s>"]), ("</s>", backend.get_vocab()["</s>"]))
    backend.post_processor = processors.RobertaProcessing(end, begin, trim_offsets=True, add_prefix_space=False)
    return backend


def mark(backend: Backend, specials: Sequence[str]) -> Backend:
    """Tell the backend which of its pieces are special."""
    backend.add_special_tokens([name for name in specials if backend.token_to_id(name) is not None])
    return backend


def whole_file(path: Path) -> Path | None:
    """Return the tokenizer.json that a path is, or that its folder holds. Raises InputError."""
    if not path.is_dir():
        return path
    with reading(path, REMEDY):
        return path / WHOLE if (path / WHOLE).exists() else None


def read_file(file: Path) -> tuple[Backend, bytes]:
    """Return the tokenizer of a tokenizer.json, and the file's content. Raises InputError."""
    with reading(file, REMEDY):
        content = file.read_bytes()
        return Backend.from_buffer(content), content


def read_folder(folder: Path) -> Backend:
    """Return the tokenizer of a folder with vocab.json and merges.txt, GPT-2's or RoBERTa's, with BERT's vocab.txt, or
    with a tokenizer.model.

    A vocab.txt is taken for lower-casing when no piece of it has a capital letter. Raises InputError.
    """
    vocab, merges, words, model = (folder / n for n in ("vocab.json", "merges.txt", "vocab.txt", MODEL_FILE))
    with reading(folder, REMEDY):
        present = {file for file in (vocab, merges, words, model) if file.exists()}

    if vocab in present and merges in present:
        with reading(folder, REMEDY):
            pairs = models.BPE.from_file(str(vocab), str(merges))
        backend = byte_level(pairs)
        return roberta(backend) if backend.get_vocab().keys() >= {*ROBERTA_SPECIALS} else mark(backend, [END_OF_TEXT])

    if words in present:
        with reading(words, REMEDY):
            text = words.read_text(encoding="utf-8")
            pieces = models.WordPiece.from_file(str(words), unk_token="[UNK]")
        ordinary = set(text.split()) - set(BERT_SPECIALS)
        return mark(word_piece(pieces, all(word == word.lower() for word in ordinary)), BERT_SPECIALS)

    if model in present:
        return read_model(model, specials=not (folder / CONFIG).exists())
    raise InputError(f"{folder} holds no tokenizer.json, no vocab.json with merges.txt, no vocab.txt, no {MODEL_FILE}")

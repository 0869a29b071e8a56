"""The two kinds of tokenizer that BERT and GPT-2 use, as the `tokenizers` library builds and reads them."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers

from phalanx.errors import InputError
from phalanx.foreign import reading

END_OF_TEXT = "<|endoftext|>"
BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def byte_level(model: models.BPE) -> Backend:
    """GPT-2's tokenizer around a BPE model."""
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def word_piece(model: models.WordPiece, lowercase: bool) -> Backend:
    """BERT's tokenizer around a WordPiece model."""
    backend = Backend(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def mark(backend: Backend, specials: Sequence[str]) -> Backend:
    """Tell the backend which of its pieces are special."""
    backend.add_special_tokens([name for name in specials if backend.token_to_id(name) is not None])
    return backend


def read_backend(path: Path) -> Backend:
    """A tokenizer.json, or a folder with one, or with vocab.json and merges.txt, or with BERT's vocab.txt.

    A vocab.txt is taken for lower-casing when no piece of it has a capital letter. Raises InputError.
    """
    with reading(path, "it is not a tokenizer that can be read"):
        backend = _read_folder(path) if path.is_dir() else Backend.from_file(str(path))
        if not backend.get_vocab():
            raise InputError(f"{path} is a tokenizer without a vocabulary; give the one that the model has")
    return backend


def _read_folder(folder: Path) -> Backend:
    whole, vocab, merges, words = (folder / n for n in ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt"))
    if whole.exists():
        return Backend.from_file(str(whole))
    if vocab.exists() and merges.exists():
        return mark(byte_level(models.BPE.from_file(str(vocab), str(merges))), [END_OF_TEXT])
    if words.exists():
        ordinary = set(words.read_text(encoding="utf-8").split()) - set(BERT_SPECIALS)
        lowercase = all(word == word.lower() for word in ordinary)
        model = models.WordPiece.from_file(str(words), unk_token="[UNK]")
        return mark(word_piece(model, lowercase), BERT_SPECIALS)
    raise InputError(f"{folder} holds no tokenizer.json, no vocab.json with merges.txt, and no vocab.txt")

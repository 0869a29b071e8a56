"""The template of a tokenizer that puts one token before a text, one behind it, both or none."""

from tokenizers import Tokenizer as Backend
from tokenizers import processors


def put_around(backend: Backend, begin: str | None, end: str | None) -> Backend:
    """Have a tokenizer's template put these tokens around a text, and around each of a pair, and no others."""
    parts = [*([begin] if begin else []), "$A", *([end] if end else [])]
    second = [f"{part}:1" if part != "$A" else "$B:1" for part in parts]
    ids = [(token, backend.token_to_id(token)) for token in dict.fromkeys(filter(None, (begin, end)))]
    template = processors.TemplateProcessing(single=parts, pair=[*parts, *second], special_tokens=ids)

    before = backend.post_processor
    keeps = isinstance(before, processors.ByteLevel)  # which says where a token lies in the text
    backend.post_processor = processors.Sequence([before, template]) if keeps else template
    return backend

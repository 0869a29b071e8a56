"""A sample as a person reads it: decoded, with its masks, segments and document boundaries."""

from phalanx.data.source import Sample
from phalanx.data.tokenize import Tokenizer


def describe(sample: Sample, tokenizer: Tokenizer) -> str:
    """Return the text of a sample and a line about it.

    GPT: the text, with a line where attention stops. BERT: segments A and B token by token; [MASK→word] where a word is
    hidden, [other→word] where it was replaced, [=word] where it was kept.
    """
    return _causal(sample, tokenizer) if sample.segment is None else _masked(sample, tokenizer)


def _causal(sample: Sample, tokenizer: Tokenizer) -> str:
    size, used, asked = len(sample.tokens), sample.used, int((sample.labels >= 0).sum())
    tokens = [*sample.tokens[:used], *(label for label in sample.labels[used - 1 : used] if label >= 0)]
    starts = [0]
    if sample.document is not None:
        starts += [i for i in range(1, used) if sample.document[i] != sample.document[i - 1]]
    pieces = [tokenizer.decode(tokens[a:b]) for a, b in zip(starts, [*starts[1:], used + 1], strict=True)]
    text = "\n── attention stops here ──\n".join(pieces)
    times = {1: "once", 2: "twice"}.get(len(pieces) - 1, f"{len(pieces) - 1} times")
    stops = "" if sample.document is None else f"; attention stops {times}"
    which = "each predicting" if asked == size else f"{asked} of them predicting"
    return f"{text}\n\n{size} tokens, {which} the next{stops}"


def _masked(sample: Sample, tokenizer: Tokenizer) -> str:
    assert sample.segment is not None
    used = len(sample.tokens) if sample.document is None else int((sample.document >= 0).sum())
    lines = []
    for part, name in ((0, "A"), (1, "B")):
        places = [i for i in range(used) if sample.segment[i] == part]
        pieces = [_piece(int(sample.tokens[i]), int(sample.labels[i]), tokenizer) for i in places]
        if pieces:
            lines.append(f"{name} ({len(pieces)}): {' '.join(pieces)}")
    asked = int((sample.labels >= 0).sum())
    question = {0: "B follows A", 1: "B does not follow A", -1: "no pair"}[sample.related]
    lines.append(f"\n{used} tokens and {len(sample.tokens) - used} of padding, {asked} to predict; {question}")
    return "\n".join(lines)


def _piece(token: int, label: int, tokenizer: Tokenizer) -> str:
    shown = tokenizer.token(token)
    if label < 0:
        return shown
    word = tokenizer.token(label)
    return f"[={word}]" if token == label else f"[{shown.strip('[]')}→{word}]"

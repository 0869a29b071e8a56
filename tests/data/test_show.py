"""Samples as a person reads them."""

import numpy as np

from phalanx.data.show import describe
from phalanx.data.source import Sample
from phalanx.data.tokenize import load_tokenizer


def test_gpt_samples_are_their_text() -> None:
    tokenizer = load_tokenizer("gpt2")
    ids = np.array(tokenizer.encode("The cat sat. It slept."))
    shown = describe(Sample(ids[:-1], ids[1:], None, None, -1), tokenizer)
    assert shown == f"The cat sat. It slept.\n\n{len(ids) - 1} tokens, each predicting the next"


def test_gpt_samples_show_where_attention_stops() -> None:
    tokenizer = load_tokenizer("gpt2")
    one, two = tokenizer.encode("One."), tokenizer.encode("Two and")
    ids = np.array([*one, tokenizer.eod, *two])
    document = np.array([0] * (len(one) + 1) + [1] * (len(two) - 1), np.int32)
    shown = describe(Sample(ids[:-1], ids[1:], None, document, -1), tokenizer)
    assert shown.startswith("One.<|endoftext|>\n── attention stops here ──\nTwo and\n")
    assert shown.endswith("; attention stops once")


def test_bert_samples_show_masks_segments_and_padding() -> None:
    tokenizer = load_tokenizer("bert-uncased")
    cat, sat, dog, ran, the = (tokenizer.encode(word)[0] for word in ("cat", "sat", "dog", "ran", "the"))
    cls, sep, mask, pad = (tokenizer.cls, tokenizer.sep, tokenizer.mask, tokenizer.pad)
    sample = Sample(
        tokens=np.array([cls, the, mask, sat, sep, dog, ran, sep, pad, pad]),
        labels=np.array([-1, -1, cat, sat, -1, the, -1, -1, -1, -1]),
        segment=np.array([0, 0, 0, 0, 0, 1, 1, 1, 0, 0]),
        document=np.array([0] * 8 + [-1] * 2, np.int32),
        related=1,
    )
    assert describe(sample, tokenizer).splitlines() == [
        "A (5): [CLS] the [MASK→cat] [=sat] [SEP]",
        "B (3): [dog→the] ran [SEP]",
        "",
        "8 tokens and 2 of padding, 3 to predict; B does not follow A",
    ]
    alone = sample._replace(segment=np.zeros(10, np.int64), document=None, related=-1)
    assert describe(alone, tokenizer).splitlines()[-1] == "10 tokens and 0 of padding, 3 to predict; no pair"

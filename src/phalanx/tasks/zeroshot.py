"""What a GPT knows without being shown: WikiText's perplexity, LAMBADA's last words, the perplexity of any text.

The definitions are those under which GPT-2 8.3B was published (arXiv 1909.08053, section 5.3). A text begins with the
tokens that the tokenizer's template puts before one, as Llama's `<s>`: so lm-evaluation-harness scores too.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from phalanx.data.labelled import Encoded, Examples
from phalanx.data.source import Array, Sample
from phalanx.errors import InputError
from phalanx.models.family import spec_of
from phalanx.nn.batch import Batch
from phalanx.score.detokenize import wikitext as detokenized
from phalanx.tasks.distributed_model import DistributedModel
from phalanx.tasks.scores import Scores
from phalanx.train.evaluate import OnProgress
from phalanx.train.task import Task

STRIDE = 32  # tokens that a window adds to those before it
MEGATRON = (
    "This is the Megatron paper's count: the whole file as one text, in windows that overlap. It is not lm-eval's, "
    "which takes each article by itself in windows that do not; the two figures cannot be compared."
)


class Windows:
    """A text's tokens in overlapping windows: each predicts the last `stride` of its tokens, the first all of them."""

    def __init__(self, tokens: Array, length: int, stride: int) -> None:
        self.tokens, self.length, self.stride = tokens, length, min(stride, length)

    def __len__(self) -> int:
        return 1 + max(0, math.ceil((len(self.tokens) - 1 - self.length) / self.stride))

    def sample(self, i: int, draw: int) -> Sample:
        """Window `i`; past the end of the text nothing is predicted."""
        start = i * self.stride
        window = self.tokens[start : start + self.length + 1]
        labels = np.full(self.length, -1, dtype=np.int64)
        labels[: len(window) - 1] = window[1:]
        if i:
            labels[: self.length - self.stride] = -1
        tokens = np.zeros(self.length, dtype=np.int64)
        tokens[: len(window)] = window[: self.length]
        return Sample(tokens, labels, None, None, -1)


class _Text(Task):
    """The loss of a text; nothing is trained."""

    losses = ("lm",)
    train: Any = None
    valid = None

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Predicted tokens."""
        assert batch.labels is not None
        return {"lm": (batch.labels >= 0).sum()}


class _LastWords(_Text):
    """Two samples for each passage: its last word is predicted, and its last token."""

    labelled = True

    def judge(self, answers: Sequence[Array], source: Examples) -> dict[str, float]:
        """The shares that are right, and the perplexity of the words."""
        right, nats = verdicts(answers, source)
        whole, last = right[::2], right[1::2]
        perplexity = math.exp(min(float(np.mean(nats[::2])), 700.0))
        return {"accuracy": float(np.mean(whole)), "last_token": float(np.mean(last)), "word_perplexity": perplexity}


def verdicts(answers: Sequence[Array], source: Examples) -> tuple[Array, Array]:
    """Whether all labels of a sample are what the model finds likeliest, and their nats, of every sample."""
    right, nats = [], []
    for one, rows in zip(source.encoded, answers, strict=True):
        assert one.labels is not None
        asked = rows[: len(one.labels)][one.labels >= 0]
        right.append(bool(asked[:, 1].all()))
        nats.append(float(asked[:, 0].sum()))
    return np.array(right), np.array(nats)


def wikitext(
    judged: DistributedModel,
    file: Path,
    limit: int | None = None,
    stride: int = STRIDE,
    progress: OnProgress | None = None,
) -> Scores:
    """The perplexity for each word of a WikiText file, whose words are what single spaces separate before the text is
    put back into the form that people write. `limit` counts windows, from the text's beginning.
    """
    original = _read(file)
    found = _perplexity(judged, detokenized(original), len(original.strip().split(" ")), limit, stride, progress)
    return replace(found, note=MEGATRON)


def perplexity(
    judged: DistributedModel,
    file: Path,
    limit: int | None = None,
    stride: int = STRIDE,
    progress: OnProgress | None = None,
) -> Scores:
    """Perplexity for each word of any text as it stands; words are what white space separates."""
    text = _read(file)
    return _perplexity(judged, text, len(text.split()), limit, stride, progress)


def _perplexity(
    judged: DistributedModel, text: str, words: int, limit: int | None, stride: int, progress: OnProgress | None
) -> Scores:
    _causal(judged)
    begin = judged.tokenizer.begin
    tokens = np.array(begin + judged.tokenizer.encode(text), dtype=np.int64)
    if len(tokens) < 2:
        raise InputError("the text has fewer than two tokens, so there is nothing to predict")
    source = Windows(tokens, judged.context, stride)
    if limit is not None and limit < len(source):
        whole = len(text.encode())
        tokens = tokens[: judged.context + 1 + (limit - 1) * source.stride]
        text = judged.tokenizer.decode(tokens[len(begin) :])
        words = round(words * len(text.encode()) / whole)
        source = Windows(tokens, judged.context, stride)
    found, _ = judged.evaluate(_Text(), source, progress=progress)
    nats = found["loss"] * found["tokens"]
    counted = max(1, words if begin else words - 1)
    values = {
        "word_perplexity": math.exp(min(nats / counted, 700.0)),
        "token_perplexity": math.exp(min(found["loss"], 700.0)),
        "bits_per_byte": nats / math.log(2) / len(text.encode()),
    }
    meanings = {
        "word_perplexity": f"exp(nats / {counted:,}), the original words{'' if begin else ' but one'}",
        "token_perplexity": f"exp(nats / {len(tokens) - 1:,}), the predicted tokens",
        "bits_per_byte": f"of {len(text.encode()):,} bytes of text",
    }
    return Scores(values, meanings, len(source))


def lambada(
    judged: DistributedModel,
    file: Path,
    limit: int | None = None,
    stride: int = STRIDE,
    progress: OnProgress | None = None,
) -> Scores:
    """Whether the last word of each passage is what the model finds likeliest: all of its tokens (strict), and the
    passage's last token alone. `limit` takes the first passages.
    """
    _causal(judged)
    encode, begin, passages, encoded = (
        judged.tokenizer.encode,
        judged.tokenizer.begin,
        list(_passages(file))[:limit],
        [],
    )
    words = [_split(text, file, number) for number, text in enumerate(passages)]
    for text, (context, word) in zip(passages, words, strict=True):
        encoded.append(_ending(begin + encode(context) + encode(f" {word}"), len(encode(f" {word}")), judged.context))
        encoded.append(_ending(begin + encode(text), 1, judged.context))
    source = Examples(encoded, judged.context, 0, causal=True)
    values, answers = judged.evaluate(_LastWords(), source, progress=progress)
    right = verdicts(answers, source)[0][::2].tolist()
    predictions = [
        {"text": text, "word": word, "right": found}
        for text, (_, word), found in zip(passages, words, right, strict=True)
    ]
    meanings = {
        "accuracy": "passages whose last word is greedily right in all its tokens (strict)",
        "last_token": "passages whose last token is greedily right",
        "word_perplexity": "exp(nats / passages) of the last words",
    }
    return Scores({name: values[name] for name in meanings}, meanings, len(passages), predictions)


def _ending(tokens: list[int], count: int, length: int) -> Encoded:
    """The last `count` tokens are predicted, from as many before them as there is room for."""
    kept = np.array(tokens[-length - 1 :], np.int64)
    labels = np.where(np.arange(1, len(kept)) >= len(kept) - count, kept[1:], -1)
    return Encoded(kept[:-1], len(kept), labels)


def _passages(file: Path) -> Iterator[str]:
    for number, line in enumerate(_read(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield str(json.loads(line)["text"])
        except (ValueError, KeyError, TypeError):
            raise InputError(f'{file}, line {number}: not of the form {{"text": "…"}}; was it cut off?') from None


def _split(text: str, file: Path, number: int) -> tuple[str, str]:
    words = text.split()
    if len(words) < 2:
        raise InputError(f"{file}, passage {number + 1}: {text!r} has no last word after a context")
    return text[: text.rfind(words[-1])].strip(), words[-1]


def _read(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None
    if not text.strip():
        raise InputError(f"{file} is empty")
    return text


def _causal(judged: DistributedModel) -> None:
    if not spec_of(judged.config.model).causal:
        raise InputError(f"{judged.run} learned to fill masks; these tasks are for models that continue a text")


TASKS: dict[str, Callable[..., Scores]] = {"wikitext": wikitext, "lambada": lambada, "perplexity": perplexity}

"""Evaluations of a GPT without fine-tuning: WikiText's perplexity, LAMBADA's last words, any text's perplexity.

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
        """Return window `i`; past the end of the text nothing is predicted."""
        start = i * self.stride
        window = self.tokens[start : start + self.length + 1]
        labels = np.full(self.length, -1, dtype=np.int64)
        labels[: len(window) - 1] = window[1:]
        if i:
            labels[: self.length - self.stride] = -1  # the window before has predicted these

        tokens = np.zeros(self.length, dtype=np.int64)
        tokens[: len(window)] = window[: self.length]
        return Sample(tokens, labels, None, None, -1)


class _Text(Task):
    """A task that gives the loss of a text; nothing is trained."""

    losses = ("lm",)
    train: Any = None
    valid = None

    def loss_counts(self, batch: Batch) -> dict[str, Tensor]:
        """Return how many tokens are predicted."""
        assert batch.labels is not None
        return {"lm": (batch.labels >= 0).sum()}


class _LastWords(_Text):
    """Two samples for each passage: its last word is predicted, and its last token."""

    labelled = True

    def judge(self, answers: Sequence[Array], source: Examples) -> dict[str, float]:
        """Return the shares that are right, and the perplexity of the words."""
        right, nats = verdicts(answers, source)
        whole, last = right[::2], right[1::2]
        perplexity = math.exp(min(float(np.mean(nats[::2])), 700.0))  # exp overflows at 710
        return {"accuracy": float(np.mean(whole)), "last_token": float(np.mean(last)), "word_perplexity": perplexity}


def verdicts(answers: Sequence[Array], source: Examples) -> tuple[Array, Array]:
    """Return of every sample whether all its labels are the likeliest, and the sum of their nats: two arrays [samples].

    answers: nats and verdict of each token, [tokens, 2].
    """
    right, nats = [], []
    for sample, rows in zip(source.encoded, answers, strict=True):
        assert sample.labels is not None
        predicted = rows[: len(sample.labels)][sample.labels >= 0]
        right.append(bool(predicted[:, 1].all()))
        nats.append(float(predicted[:, 0].sum()))
    return np.array(right), np.array(nats)


def wikitext(
    model: DistributedModel,
    file: Path,
    limit: int | None = None,
    stride: int = STRIDE,
    progress: OnProgress | None = None,
) -> Scores:
    """Return the perplexity for each word of a WikiText file. Its words are what single spaces separate before the text
    is put back into the form that people write. `limit` counts windows, from the text's beginning.
    """
    original = _read(file)
    scores = _perplexity(model, detokenized(original), len(original.strip().split(" ")), limit, stride, progress)
    return replace(scores, note=MEGATRON)


def perplexity(
    model: DistributedModel,
    file: Path,
    limit: int | None = None,
    stride: int = STRIDE,
    progress: OnProgress | None = None,
) -> Scores:
    """Return the perplexity for each word of any text as it stands; words are what white space separates."""
    text = _read(file)
    return _perplexity(model, text, len(text.split()), limit, stride, progress)


def _perplexity(
    model: DistributedModel, text: str, words: int, limit: int | None, stride: int, progress: OnProgress | None
) -> Scores:
    _causal(model)
    begin = model.tokenizer.begin
    tokens = np.array(begin + model.tokenizer.encode(text), dtype=np.int64)
    if len(tokens) < 2:
        raise InputError("the text has fewer than two tokens, so there is nothing to predict")

    source = Windows(tokens, model.context, stride)
    if limit is not None and limit < len(source):
        whole = len(text.encode())
        tokens = tokens[: model.context + 1 + (limit - 1) * source.stride]
        text = model.tokenizer.decode(tokens[len(begin) :])
        words = round(words * len(text.encode()) / whole)
        source = Windows(tokens, model.context, stride)

    totals, _ = model.evaluate(_Text(), source, progress=progress)
    nats = totals["loss"] * totals["tokens"]
    counted = max(1, words if begin else words - 1)  # without a beginning the first word is not predicted
    values = {
        "word_perplexity": math.exp(min(nats / counted, 700.0)),
        "token_perplexity": math.exp(min(totals["loss"], 700.0)),
        "bits_per_byte": nats / math.log(2) / len(text.encode()),
    }
    meanings = {
        "word_perplexity": f"exp(nats / {counted:,}), the original words{'' if begin else ' but one'}",
        "token_perplexity": f"exp(nats / {len(tokens) - 1:,}), the predicted tokens",
        "bits_per_byte": f"of {len(text.encode()):,} bytes of text",
    }
    return Scores(values, meanings, len(source))


def lambada(
    model: DistributedModel,
    file: Path,
    limit: int | None = None,
    stride: int = STRIDE,
    progress: OnProgress | None = None,
) -> Scores:
    """Return how often the last word of a passage is what the model finds likeliest: all of its tokens (strict), and
    the passage's last token alone. `limit` takes the first passages.
    """
    _causal(model)
    encode, begin = model.tokenizer.encode, model.tokenizer.begin
    passages, encoded = list(_passages(file))[:limit], []
    words = [_split(text, file, number) for number, text in enumerate(passages)]
    for text, (context, word) in zip(passages, words, strict=True):
        encoded.append(_ending(begin + encode(context) + encode(f" {word}"), len(encode(f" {word}")), model.context))
        encoded.append(_ending(begin + encode(text), 1, model.context))
    source = Examples(encoded, model.context, 0, causal=True)

    values, answers = model.evaluate(_LastWords(), source, progress=progress)
    right = verdicts(answers, source)[0][::2].tolist()
    predictions = [
        {"text": text, "word": word, "right": verdict}
        for text, (_, word), verdict in zip(passages, words, right, strict=True)
    ]
    meanings = {
        "accuracy": "passages whose last word is greedily right in all its tokens (strict)",
        "last_token": "passages whose last token is greedily right",
        "word_perplexity": "exp(nats / passages) of the last words",
    }
    return Scores({name: values[name] for name in meanings}, meanings, len(passages), predictions)


def _ending(tokens: list[int], count: int, length: int) -> Encoded:
    """Return a sample whose last `count` tokens are predicted, from as many before them as there is room for."""
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


def _causal(model: DistributedModel) -> None:
    if not spec_of(model.config.model).causal:
        raise InputError(f"{model.run} learned to fill masks; these tasks are for models that continue a text")


TASKS: dict[str, Callable[..., Scores]] = {"wikitext": wikitext, "lambada": lambada, "perplexity": perplexity}

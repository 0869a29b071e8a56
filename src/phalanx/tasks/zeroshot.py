"""What a GPT knows without being shown: WikiText's perplexity, LAMBADA's last words, the perplexity of any text.

The definitions are those under which GPT-2 8.3B was published (arXiv 1909.08053, section 5.3).
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from phalanx import durable, registry
from phalanx.data.source import Array, Sample
from phalanx.errors import InputError
from phalanx.infer.load import Loaded, load
from phalanx.score.detokenize import wikitext as detokenized
from phalanx.train.evaluate import OnProgress, evaluate
from phalanx.units import aligned

STRIDE = 32  # tokens that a window adds to those before it
BATCH = 8  # windows at once, where the run does not say


@dataclass(frozen=True)
class Scores:
    """Values by name, what each of them means, how many examples there were, and each example's own result."""

    values: dict[str, float]
    meanings: dict[str, str]
    examples: int
    predictions: list[dict[str, Any]] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For a terminal: each value with its meaning."""
        rows = [[name, f"{value:.4f}", self.meanings[name]] for name, value in self.values.items()]
        return [*aligned(rows, left=(0, 2), space="  "), f"{self.examples:,} examples"]

    def write(self, file: Path) -> None:
        """Each example's result, a JSON object a line; InputError where the task has none."""
        if not self.predictions:
            raise InputError(f"{file} is not written: this task has no answers of single examples")
        text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in self.predictions)
        durable.write(file, text.encode())


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


def wikitext(
    loaded: Loaded, file: Path, limit: int | None = None, stride: int = STRIDE, progress: OnProgress | None = None
) -> Scores:
    """The perplexity for each word of a WikiText file, whose words are what single spaces separate before the text is
    put back into the form that people write. `limit` counts windows, from the text's beginning.
    """
    original = _read(file)
    return _perplexity(loaded, detokenized(original), len(original.strip().split(" ")), limit, stride, progress)


def perplexity(
    loaded: Loaded, file: Path, limit: int | None = None, stride: int = STRIDE, progress: OnProgress | None = None
) -> Scores:
    """The same of any text as it stands; words are what white space separates."""
    text = _read(file)
    return _perplexity(loaded, text, len(text.split()), limit, stride, progress)


def _perplexity(
    loaded: Loaded, text: str, words: int, limit: int | None, stride: int, progress: OnProgress | None
) -> Scores:
    _causal(loaded)
    tokens = np.array(loaded.tokenizer.encode(text), dtype=np.int64)
    if len(tokens) < 2:
        raise InputError("the text has fewer than two tokens, so there is nothing to predict")
    source = Windows(tokens, loaded.context, stride)
    if limit is not None and limit < len(source):
        whole = len(text.encode())
        tokens = tokens[: loaded.context + 1 + (limit - 1) * source.stride]
        text = loaded.tokenizer.decode(tokens)
        words = round(words * len(text.encode()) / whole)
        source = Windows(tokens, loaded.context, stride)
    task = registry.TASKS.find(loaded.config.task)(loaded.config, loaded.tokenizer)
    layout = loaded.config.layout.model_copy(update={"micro_batch": loaded.config.layout.micro_batch or BATCH})
    config = loaded.config.model_copy(update={"layout": layout})
    found = evaluate(loaded.model, task, source, config, progress=progress)
    nats = found["loss"] * found["tokens"]
    values = {
        "word_perplexity": math.exp(min(nats / max(1, words - 1), 700.0)),
        "token_perplexity": math.exp(min(found["loss"], 700.0)),
        "bits_per_byte": nats / math.log(2) / len(text.encode()),
    }
    meanings = {
        "word_perplexity": f"exp(nats / {max(1, words - 1):,}), the original words but one",
        "token_perplexity": f"exp(nats / {len(tokens) - 1:,}), the predicted tokens",
        "bits_per_byte": f"of {len(text.encode()):,} bytes of text",
    }
    return Scores(values, meanings, len(source))


def lambada(loaded: Loaded, file: Path, limit: int | None = None, progress: OnProgress | None = None) -> Scores:
    """Whether the last word of each passage is what the model finds likeliest: all of its tokens (strict), and the
    passage's last token alone. `limit` takes the first passages.
    """
    _causal(loaded)
    passages = list(_passages(file))[:limit]
    predictions, whole, last, nats = [], 0, 0, 0.0
    for number, text in enumerate(passages):
        context, word = _split(text, file, number)
        labels = loaded.tokenizer.encode(f" {word}")
        tokens = (loaded.tokenizer.encode(context) + labels)[-loaded.context - 1 :]
        scores = loaded.logits(tokens[:-1])[-len(labels) :]
        said = scores.argmax(-1).tolist()
        nats -= float(scores.log_softmax(-1)[range(len(labels)), labels].sum())
        strict = said == labels
        whole += strict
        every = loaded.tokenizer.encode(text)[-loaded.context - 1 :]
        last += int(loaded.logits(every[:-1])[-1].argmax()) == every[-1]
        predictions.append({"text": text, "word": word, "said": loaded.tokenizer.decode(said).strip(), "right": strict})
        if progress:
            progress(number + 1, len(passages))
    count = len(passages)
    values = {"accuracy": whole / count, "last_token": last / count, "word_perplexity": math.exp(nats / count)}
    meanings = {
        "accuracy": "passages whose last word is greedily right in all its tokens (strict)",
        "last_token": "passages whose last token is greedily right",
        "word_perplexity": "exp(nats / passages) of the last words",
    }
    return Scores(values, meanings, count, predictions)


def _passages(file: Path) -> Iterator[str]:
    for number, line in enumerate(_read(file).splitlines(), 1):
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
    text = file.read_text(encoding="utf-8")
    if not text.strip():
        raise InputError(f"{file} is empty")
    return text


def _causal(loaded: Loaded) -> None:
    if loaded.config.task != "clm":
        raise InputError(f"{loaded.run} learned to fill masks; these tasks are for models that continue a text")


def judge(
    run: Path, task: str, data: str, limit: int | None, stride: int, best: bool, progress: OnProgress | None = None
) -> Scores:
    """A run's model on a task's file."""
    if task not in TASKS:
        raise InputError(f"no task {task!r}; use one of {', '.join(TASKS)}")
    if not data:
        raise InputError(f"--task {task} needs its file: --data FILE")
    options = {} if task == "lambada" else {"stride": stride}
    return TASKS[task](load(run, best), Path(data), limit=limit, progress=progress, **options)


TASKS: dict[str, Callable[..., Scores]] = {"wikitext": wikitext, "lambada": lambada, "perplexity": perplexity}

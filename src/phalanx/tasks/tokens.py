"""The class of each word: names, parts of speech (BERT). A word's first piece speaks for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phalanx.config import Config
from phalanx.data.examples import Columns, Tagged, in_order, tags
from phalanx.data.labelled import Assembler
from phalanx.data.source import Array
from phalanx.errors import InputError
from phalanx.score.entities import f1
from phalanx.tasks.labelled import Held, Labelled


class Tokens(Labelled):
    """The tag of every word that fits into the sequence."""

    head = "tokens"
    metrics = ("f1", "accuracy")
    forms = ("tags",)

    @classmethod
    def fitted(cls, config: Config) -> Config:
        """Return the configuration with the tags of the training files, unless it names them."""
        config, examples = super().fitted(config), config.examples
        labels = examples.labels
        if not labels:
            columns = Columns(examples.text, examples.label)
            every_tag = (
                tag for file in config.data.train for sentence in tags(Path(file), columns) for tag in sentence.tags
            )
            labels = in_order(every_tag)
        model = config.model.tuned(cls.head, len(labels))
        return config.model_copy(update={"model": model, "examples": examples.model_copy(update={"labels": labels})})

    def read(self, file: Path) -> list[Tagged]:
        """Return the sentences of a file; InputError for a tag that the training files have not."""
        sentences, known = tags(file, self.columns), set(self.config.examples.labels)
        for sentence in sentences:
            if strange := set(sentence.tags) - known:
                raise InputError(
                    f"{file}, line {sentence.line}: the tag {min(strange)!r} is not among those of training: "
                    f"{', '.join(sorted(known)[:20])}"
                )
        return sentences

    def encode(self, examples: Sequence[Tagged]) -> Held:
        """Return a sample for each sentence: [CLS] pieces of all words [SEP], the first of each labelled."""
        assemble, samples = Assembler(self.tokenizer, self.config.data.sequence), []
        number = {tag: n for n, tag in enumerate(self.config.examples.labels)}
        pieces = iter(assemble.encode_words([word for sentence in examples for word in sentence.words]))
        begin = len(assemble.frame.begin)
        for sentence in examples:
            words = [next(pieces) for _ in sentence.words]
            labels = [np.append(number[tag], np.full(len(word) - 1, -1)) if len(word) else word
                      for word, tag in zip(words, sentence.tags, strict=True)]  # fmt: skip
            sample = assemble.join(np.concatenate(words))
            whole = np.full(len(sample.tokens), -1, np.int64)
            seen = np.concatenate(labels)[: assemble.room]
            whole[begin : begin + len(seen)] = seen
            samples.append(sample._replace(labels=whole))
        return Held(samples, self.config.data.sequence, assemble.pad)

    def judge(self, answers: Sequence[Array], source: Held) -> dict[str, float]:
        """Return accuracy over words, and F1 over the entities that tags of the form B-kind, I-kind and O mark."""
        predicted, right = self._tags(answers, source)
        sentences = zip(predicted, right, strict=True)
        hits = [a == b for guesses, tags in sentences for a, b in zip(guesses, tags, strict=True)]
        return {"f1": f1(predicted, right), "accuracy": float(np.mean(hits))}

    def predictions(self, answers: Sequence[Array], source: Held) -> list[dict[str, Any]]:
        """Return a record for each sentence: its words as far as they fit the model, their predicted and right tags."""
        predicted, right = self._tags(answers, source)
        return [
            {"words": list(sentence.words[: len(guesses)]), "label": true, "said": guesses}
            for sentence, guesses, true in zip(source.examples, predicted, right, strict=True)
        ]

    def _tags(self, answers: Sequence[Array], source: Held) -> tuple[list[list[str]], list[list[str]]]:
        """Return the predicted and the right tags of every sentence."""
        names, predicted, right = self.config.examples.labels, [], []
        for sample, rows in zip(source.encoded, answers, strict=True):
            assert sample.labels is not None
            positions = np.flatnonzero(sample.labels >= 0)
            predicted.append(self.model_head.decode(rows[positions]))
            right.append([names[k] for k in sample.labels[positions]])
        return predicted, right

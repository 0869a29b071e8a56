"""Multiple choice: which candidate goes with a text (BERT on RACE and SWAG)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phalanx.config import Config
from phalanx.data import examples as files
from phalanx.data.labelled import Assembler
from phalanx.data.source import Array
from phalanx.errors import InputError
from phalanx.heads.choice import Chosen
from phalanx.models.family import sketch_of
from phalanx.tasks.labelled import Held, Labelled

READ = {"race": files.race, "swag": files.swag}


class Choice(Labelled):
    """A sample for each candidate, those of a question together: the one with the highest score is chosen."""

    head = "choice"
    metrics = ("accuracy",)
    forms = tuple(READ)

    @property
    def group(self) -> int:
        """The number of candidates of a question."""
        return _candidates(self.config)

    @classmethod
    def fitted(cls, config: Config) -> Config:
        """Return the configuration with as many candidates as the first question of the training files has.

        InputError where train.batch is no multiple of them.
        """
        config = super().fitted(config)
        count = _candidates(config)
        if not count and config.data.train and config.examples.form in READ:
            count = len(READ[config.examples.form](Path(config.data.train[0]))[0].candidates)
        if count and config.train.batch % count:
            raise InputError(
                f"train.batch={config.train.batch}: each question has {count} candidates, so it must be a multiple of "
                f"{count}, as {-(-config.train.batch // count) * count}"
            )
        return config.model_copy(update={"model": config.model.tuned(cls.head, count)})

    def read(self, file: Path) -> list[files.Choice]:
        """Return the questions of a file. InputError where they have another number of candidates than the model."""
        questions = READ[self.config.examples.form](file)
        if len(questions[0].candidates) != self.group:
            raise InputError(
                f"{file}: {len(questions[0].candidates)} candidates a question, the model was made for {self.group}"
            )
        return questions

    def encode(self, examples: Sequence[files.Choice]) -> Held:
        """Return a sample for each candidate: [CLS] text [SEP] candidate [SEP]."""
        assemble, samples = Assembler(self.tokenizer, self.config.data.sequence), []
        texts = assemble.encode([question.text for question in examples])
        candidates = assemble.encode([candidate for question in examples for candidate in question.candidates])
        for number, candidate in enumerate(candidates):
            question, which = divmod(number, self.group)
            right = int(examples[question].right == which)
            samples.append(assemble.join(texts[question], candidate)._replace(related=right))
        return Held(samples, self.config.data.sequence, assemble.pad)

    def judge(self, answers: Sequence[Array], source: Held) -> dict[str, float]:
        """Return the share of questions whose right candidate has the highest score."""
        right = [question.right for question in source.examples]
        return {"accuracy": float(np.mean([chosen.candidate for chosen in self._decoded(answers)] == np.array(right)))}

    def predictions(self, answers: Sequence[Array], source: Held) -> list[dict[str, Any]]:
        """Return a record for each question: the candidate that was chosen, the right one, and the scores of all."""
        return [
            {"id": q.id, "label": q.right, "said": predicted, "right": predicted == q.right, "scores": scores}
            for q, (predicted, scores) in zip(source.examples, self._decoded(answers), strict=True)
        ]

    def _decoded(self, answers: Sequence[Array]) -> list[Chosen]:
        """Return the candidate chosen for each question; answers: a score [1] for each candidate."""
        return [self.model_head.decode(scores) for scores in np.stack(answers).reshape(-1, self.group)]


def _candidates(config: Config) -> int:
    """Return how many candidates of a question the model's head has; 0 where nothing says it yet."""
    answer = sketch_of(config.model).answer
    return answer.candidates if answer else 0

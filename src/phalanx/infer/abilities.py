"""The abilities of a model, decided in one place by what it was trained for and by what its folder lacked."""

from pathlib import Path

from phalanx import registry
from phalanx.config import Config
from phalanx.heads.head import head_class, head_of
from phalanx.models.family import spec_of
from phalanx.run.import_record import ImportRecord

PLAIN = "fill", "embed"  # verbs of a model with the heads of its pretraining


def verbs(config: Config) -> tuple[str, ...]:
    """Return the verbs that an encoder is made for; whether its folder had the weights `refusal` decides."""
    head = head_of(spec_of(config.model))
    if head is None:
        return PLAIN
    return (head.verb,) if head.verb else ()


def refusal(verb: str, run: Path, config: Config, record: ImportRecord) -> str:
    """Return why the model of a run cannot be asked for `verb`, and what would do; "" if it can.

    `verb` is answer, classify, fill, embed or judge; or the name of a head, where no other will do.
    """
    if heads := [name for name in registry.HEADS.places if verb in (name, head_class(name).verb)]:
        return _of_a_head(verb, heads[0], run, config, record)

    if verb == "judge" and (reason := record.unavailable("masked", "answer")):
        return f"{run} cannot be judged: {reason}, so they are random"
    if verb == "embed" and record.no_vectors:
        return f"{run} cannot embed: {record.no_vectors}"
    if verb != "fill":
        return ""

    spec = spec_of(config.model)
    if spec.causal:
        return f"{run} learned to continue a text, not to fill masks; use: phalanx generate {run}"
    if spec.tuned:
        return f"{run} was fine-tuned for task={config.task}; fill with the run it was made of"
    if reason := record.unavailable("masked"):
        return f"{run} cannot fill masks: {reason}; take a folder with its masked-language-model head"
    return ""


def _of_a_head(verb: str, name: str, run: Path, config: Config, record: ImportRecord) -> str:
    """Return why a verb that needs a fine-tuned head, such as `name`, cannot be asked for; "" if it can."""
    head, wanted = head_of(spec_of(config.model)), head_class(name)
    if head is None or verb not in (head.part.loss, head.verb):
        was = f"was tuned for task={config.task}" if head else "was not tuned for it"
        advice = f"make one that can: phalanx tune {run} --task {wanted.example or wanted.task}"
        return f"{run} cannot {wanted.does}: it {was}; {advice}"
    if reason := record.unavailable("answer"):
        return f"{run} cannot {head.does or verb}: {reason}; take a folder that was fine-tuned"
    return ""

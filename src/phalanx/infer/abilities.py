"""What a model can be asked, decided in one place by what it was trained for and by what its folder lacked."""

from pathlib import Path

from phalanx.config import Config
from phalanx.models.family import spec_of
from phalanx.run.import_record import ImportRecord

VERBS = {"": ("fill", "embed"), "span": ("answer",), "classes": ("classify",), "value": ("value",)}  # by head
TUNED = {  # what is asked of a fine-tuned head: the head, what it does, a task that makes one
    "answer": ("span", "answer questions", "squad"),
    "classify": ("classes", "classify", "classes"),
    "value": ("value", "give numbers", "stsb"),
}


def refusal(verb: str, run: Path, config: Config, record: ImportRecord) -> str:
    """Why the model of a run cannot be asked for `verb`, and what would do; empty where it can.

    `verb` is answer, classify, value, fill, embed or judge.
    """
    if verb in TUNED:
        return _of_a_head(verb, run, config, record)

    if verb == "judge" and (reason := record.lacking("masked", "answer")):
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
    if reason := record.lacking("masked"):
        return f"{run} cannot fill masks: {reason}; take a folder with its masked-language-model head"
    return ""


def _of_a_head(verb: str, run: Path, config: Config, record: ImportRecord) -> str:
    """Why a verb that needs a fine-tuned head cannot be asked for; empty where it can."""
    (head, does, task), tuned = TUNED[verb], spec_of(config.model).tuned
    if tuned != head:
        was = f"was tuned for task={config.task}" if tuned else "was not tuned for it"
        return f"{run} cannot {does}: it {was}; make one that can: phalanx tune {run} --task {task}"
    if reason := record.lacking("answer"):
        return f"{run} cannot {does}: {reason}; take a folder that was fine-tuned"
    return ""

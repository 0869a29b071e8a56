"""Look-up by name, or by "module:Name" for what lives outside the package.

A table maps a short name to the place that defines it, so nothing is imported before it is asked for. To add a model,
a task or an optimizer from another package, give its "module:Name" where the configuration expects a name.

A table knows which attributes an object of its kind needs. The kinds themselves (a family, a task, a tracker) are
protocols in the folders that use them, which this module does not import.

Such a name runs code, and a run folder that came from elsewhere may hold one. So modules are imported from where
Python's packages are installed and from PYTHONPATH, never because they lie in the folder that one happens to be in.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phalanx.errors import InputError, no_memory


@dataclass(frozen=True)
class Table:
    """Objects of one kind by name. `key` is where the configuration names one, `needs` which attributes each has."""

    key: str
    places: Mapping[str, str]
    needs: tuple[str, ...]

    def find(self, name: str) -> Any:
        """Return the object that the table or "module:Name" gives for `name`. InputError when there is none, or it
        lacks what its kind needs.
        """
        known = ", ".join(self.places)
        module, _, attribute = self.places.get(name, name).partition(":")
        if not attribute:
            near = difflib.get_close_matches(name, self.places, 1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise InputError(f"unknown {self.key} {name!r}{hint} Known: {known}, or module:Name")

        try:
            with _installed_alone():
                entry = getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:
            if no_memory(error):
                raise
            plain = isinstance(error, ImportError | AttributeError | InputError)
            reason = _first_line(error) if plain else named(error)
            hint = f"; is it installed, or in PYTHONPATH? {Path.cwd()} is not searched" if _lacks(error, module) else ""
            raise InputError(f"{self.key} {name!r} cannot be loaded: {reason}{hint}") from error

        if missing := [need for need in self.needs if not hasattr(entry, need)]:
            others = f"; known: {known}" if known else ""
            raise InputError(f"{self.key} {name!r} is none: it has no {missing[0]}{others}")
        return entry


@contextmanager
def _installed_alone() -> Iterator[None]:
    """Import without the entry that Python puts before all others for the current folder."""
    first = sys.path[:1]
    implied = first and not sys.flags.safe_path and Path(first[0]).resolve() == Path.cwd()
    if implied:
        del sys.path[0]
    try:
        yield
    finally:
        if implied:
            sys.path[:0] = first


def from_outside(name: str) -> bool:
    """Return whether a name is "module:Name", of code that is not this package's."""
    return ":" in name


@contextmanager
def blamed(key: str, name: str, call: str) -> Iterator[None]:
    """Raise InputError that blames `key`=`name` for whatever the body raises, which runs the `call` of code from
    outside. Where `name` is one of the package's own, the error is a defect of ours and keeps its traceback.

    What is no fault of that code passes: an InputError, Ctrl-C, a lack of memory, an error of the file system; among
    several processes also a RuntimeError, as torch raises one when another process is lost.
    """
    try:
        yield
    except (InputError, OSError):
        raise
    except (Exception, SystemExit) as error:
        together = os.environ.get("WORLD_SIZE", "1") != "1"
        if not from_outside(name) or no_memory(error) or (together and isinstance(error, RuntimeError)):
            raise
        told = "PHALANX_TRACEBACK=1 shows where"
        raise InputError(f"{key}={name}: {call} raised {named(error)}; {told}") from error


def named(error: BaseException) -> str:
    """Return an error's type and the first line of its message, where it has one."""
    kind, line = type(error).__name__, _first_line(error)
    return f"{kind}: {line}" if line else kind


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _lacks(error: BaseException, module: str) -> bool:
    """Return whether it is the module itself, or a package that it is in, which cannot be found."""
    return isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")


MODELS = Table(
    "model.family",
    {
        "gpt2": "phalanx.models.gpt2:GPT2",
        "bert": "phalanx.models.bert:Bert",
        "roberta": "phalanx.models.roberta:Roberta",
        "xlm-roberta": "phalanx.models.roberta:XLMRoberta",
        "distilbert": "phalanx.models.distilbert:DistilBert",
        "modernbert": "phalanx.models.modernbert:ModernBert",
        "llama": "phalanx.models.llama:Llama",
        "qwen3": "phalanx.models.qwen3:Qwen3",
        "olmo": "phalanx.models.olmo:Olmo",
        "gemma3": "phalanx.models.gemma3:Gemma3",
    },
    ("TASK", "PRESETS", "Config"),
)
TASKS = Table(
    "task",
    {
        "clm": "phalanx.tasks.clm:CausalLM",
        "mlm": "phalanx.tasks.mlm:MaskedLM",
        "classes": "phalanx.tasks.classes:Classes",
        "value": "phalanx.tasks.classes:Value",
        "span": "phalanx.tasks.span:Span",
        "choice": "phalanx.tasks.choice:Choice",
        "tokens": "phalanx.tasks.tokens:Tokens",
        "completion": "phalanx.tasks.completion:Completion",
    },
    ("losses", "loss_counts", "labelled", "fitted"),
)
HEADS = Table(
    "model.head",
    {
        "classes": "phalanx.heads.classes:ClassesHead",
        "value": "phalanx.heads.classes:ValueHead",
        "span": "phalanx.heads.span:SpanHead",
        "choice": "phalanx.heads.choice:ChoiceHead",
        "tokens": "phalanx.heads.tokens:TokensHead",
    },
    ("width", "loss", "decode"),
)
BACKENDS = Table(
    "backend",
    {
        "torch": "phalanx.infer.backends.pytorch:Torch",
        "native": "phalanx.infer.backends.native:Native",
        "onnxruntime": "phalanx.infer.backends.onnxruntime:OnnxRuntime",
        "openvino": "phalanx.infer.backends.openvino:OpenVINO",
        "tensorrt": "phalanx.infer.backends.tensorrt:TensorRT",
    },
    ("unavailable",),
)
TRACKERS = Table(
    "log.trackers", {"tensorboard": "phalanx.train.trackers:TensorBoard"}, ("start", "train", "valid", "close")
)
SOURCES = Table("data source", {}, ("__len__", "sample", "fingerprint"))
OPTIMIZERS = Table(
    "optim.name",
    {
        "adamw": "phalanx.train.optimizers:AdamW",
        "lamb": "phalanx.train.optimizers:Lamb",
        "muon": "phalanx.train.optimizers:Muon",
    },
    ("build", "state", "messages"),
)
TOKENIZERS = {"gpt2": 50257, "bert-uncased": 30522, "bert-cased": 28996}  # those that are bundled: tokens of each

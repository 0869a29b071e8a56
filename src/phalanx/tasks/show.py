"""`phalanx data show`: one sample of a prepared set, as a task would make it."""

from collections.abc import Sequence

from phalanx import recipe
from phalanx.data.indexed import IndexedDataset
from phalanx.data.show import describe
from phalanx.data.source_names import names_source
from phalanx.errors import InputError
from phalanx.tasks import sources
from phalanx.tasks.preflight import task_of


def show(prefix: str, number: int, task: str, sequence: int, overrides: Sequence[str]) -> str:
    """Return sample `number` of the whole set PREFIX, or of module:Name, in its own order, decoded.

    `overrides` are data.KEY=value words. InputError for a number that the set does not have.
    """
    words = [f"task={task or ('mlm' if _in_sentences(prefix) else 'clm')}", f"data.sequence={sequence}", *overrides]
    config = recipe.from_words(words)
    data = config.data.model_copy(update={"valid": (prefix,)})
    config = config.model_copy(update={"data": data})

    tokenizer = sources.tokenizer_of(data)
    source = task_of(config, tokenizer).valid
    assert source
    if not 0 <= number < len(source):
        raise InputError(f"sample {number} of {prefix}: it has {len(source)} at data.sequence={sequence}, from 0")
    return describe(source.sample(number, number), tokenizer)


def _in_sentences(prefix: str) -> bool:
    """Return whether the documents of a prepared set are cut into sentences."""
    if names_source(prefix):
        return False
    dataset = IndexedDataset(prefix)
    return len(dataset) > len(dataset.documents) - 1

"""`phalanx data show`: one sample of a prepared set, as a task would make it."""

from collections.abc import Sequence

from phalanx import recipe, registry
from phalanx.data.indexed import IndexedDataset
from phalanx.data.show import describe
from phalanx.errors import InputError
from phalanx.tasks import sources


def show(prefix: str, number: int, task: str, sequence: int, overrides: Sequence[str]) -> str:
    """Sample `number` of the whole set PREFIX in the file's order, decoded. `overrides` are data.KEY=value words."""
    dataset = IndexedDataset(prefix)
    split = len(dataset) > len(dataset.documents) - 1
    words = [f"task={task or ('mlm' if split else 'clm')}", f"data.sequence={sequence}", *overrides]
    config = recipe.from_words(words)
    data = config.data.model_copy(update={"valid": (prefix,)})
    config = config.model_copy(update={"data": data})
    tokenizer = sources.tokenizer_of(data)
    source = registry.TASKS.find(config.task)(config, tokenizer).valid
    assert source
    if not 0 <= number < len(source):
        raise InputError(f"sample {number} of {prefix}: it has {len(source)} at data.sequence={sequence}, from 0")
    return describe(source.sample(number, number), tokenizer)

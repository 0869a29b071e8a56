"""The one kind of error that is the user's to mend.

The command line prints an `InputError` as one line and exits with code 2; every other exception is a defect of
Phalanx and keeps its traceback. A good message names the thing, the value and what would do.
"""


class InputError(ValueError):
    """Bad input: a file, a key, a value, a run folder. The message is the whole report."""


class Resumable(InputError):
    """Bad input that the same command may get over: what it has saved is of use."""


def no_memory(error: BaseException) -> bool:
    """Return whether an error says that there was no memory left, as Python or torch says it."""
    said = ("out of memory", "can't allocate memory", "size calculation overflowed")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(s in str(error) for s in said))


class ModelError(InputError):
    """A model whose weights give no finite scores: bad input to who loaded it, not to who asks it something."""

"""The text, the processes and the curves that the tests of layouts have."""

from tests.layouts.conftest import alone, corpus, pool

__all__ = ["alone", "corpus", "pool"]

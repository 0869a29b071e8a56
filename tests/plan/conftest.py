"""The text and the processes of the layouts' tests."""

from tests.layouts.conftest import corpus, pool

__all__ = ["corpus", "pool"]

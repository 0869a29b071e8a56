"""What the watchdog's threads do when both find that the run must end."""

import io
import sys
import threading

import pytest

from phalanx.parallel.watchdog import Watchdog


class Broken(io.StringIO):
    """A pipe that nobody reads any more."""

    def write(self, _: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [Broken(), io.StringIO()])
def test_two_threads_tell_once_and_go_on(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> None:
    """To where the process is ended: neither waits for the other, nor dies of a report that nobody reads."""
    monkeypatch.setattr(sys, "stderr", stream)
    watchdog = Watchdog.__new__(Watchdog)
    watchdog.telling = threading.Lock()
    went_on = list[str]()

    def tell(report: str) -> None:
        watchdog._tell(report)
        went_on.append(report)

    for report in ("first", "second"):
        thread = threading.Thread(target=tell, args=(report,), daemon=True)
        thread.start()
        thread.join(60)
        assert went_on[-1:] == [report]
    assert isinstance(stream, Broken) or (
        stream.getvalue().startswith("phalanx: first\n") and "second" not in stream.getvalue()
    )

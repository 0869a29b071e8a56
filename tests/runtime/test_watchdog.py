"""What the watchdog's threads do when both find that the run must end."""

import io
import sys
import threading
import time

import pytest

from phalanx.runtime.watchdog import Stillness, Watchdog


class Broken(io.StringIO):
    """A pipe that nobody reads any more."""

    def write(self, _: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [Broken(), io.StringIO()])
def test_two_threads_tell_once_and_go_on(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> None:
    """To where the process is ended: neither waits for the other, nor dies of a report that nobody reads."""
    monkeypatch.setattr(sys, "stderr", stream)
    watchdog = Watchdog.__new__(Watchdog)
    watchdog.reporting = threading.Lock()
    went_on = list[str]()

    def tell(report: str) -> None:
        watchdog._report(report)
        went_on.append(report)

    for report in ("first", "second"):
        thread = threading.Thread(target=tell, args=(report,), daemon=True)
        thread.start()
        thread.join(60)
        assert went_on[-1:] == [report]
    assert isinstance(stream, Broken) or (
        stream.getvalue().startswith("phalanx: first\n") and "second" not in stream.getvalue()
    )


def test_who_was_stopped_has_not_waited() -> None:
    """A process that is woken after an hour blames nobody for the hour."""
    still, now = Stillness(tick=1.0), time.monotonic()
    assert still.seen(("here",), now) == 0
    assert [round(still.seen(("here",), now + second)) for second in (1, 2, 3)] == [1, 2, 3]
    assert round(still.seen(("here",), now + 3600)) == 5
    assert round(still.seen(("here",), now + 3601)) == 6
    assert still.seen(("there",), now + 3602) == 0

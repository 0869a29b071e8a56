"""The store in which processes meet under torchrun, whose own is kept from start to start."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import DistNetworkError, TCPStore

from phalanx.errors import InputError
from phalanx.runtime import rendezvous


def _nobodys_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def test_what_an_earlier_start_left_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the port of its store, though a rank may ask before the first has said the new one, nor its keys."""
    kept = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(kept.port))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    kept.set("phalanx", str(_nobodys_port()))
    for start in range(2):
        monkeypatch.setenv(rendezvous.ADDRESS, "")
        with ThreadPoolExecutor() as threads:
            second = threads.submit(rendezvous.store_of_this_start, 1, 10.0)
            first = rendezvous.store_of_this_start(0, 10.0)
            store = second.result()
        assert not store.check(["rank 0"])
        first.set("rank 0", f"start {start}")
        assert store.get("rank 0") == f"start {start}".encode()
        del store, first  # as when its processes end


def test_one_that_nobody_opened_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(kept.port))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv(rendezvous.ADDRESS, "")
    kept.set("phalanx", str(port := _nobodys_port()))
    with pytest.raises(InputError, match=f"rank 0 .* did not come in time.*:{port}$"):
        rendezvous.store_of_this_start(1, 1.0)


GLOO = RuntimeError(
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:9. This may indicate …"
)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_what_a_lost_process_led_to_is_told_as_that(depth: int) -> None:
    """Schedules of pipelines raise errors of their own, from those of the connection."""
    for error in (GLOO, DistNetworkError("Connection closed by peer [::1]:9")):
        for _ in range(depth):
            outer = RuntimeError("failed to run forward")
            outer.__cause__ = error
            error = outer
        assert rendezvous.lost_process(error) == "rank 0 lost another process: Connection closed by peer [::1]:9"
    assert rendezvous.lost_process(ValueError("a defect")) == ""


@pytest.mark.parametrize("hidden", [True, False])
def test_a_defect_while_a_loss_is_handled_is_a_defect(hidden: bool) -> None:
    """Whether or not it hides what it came after; it is not told as the loss, which would cost its traceback."""
    with pytest.raises(KeyError) as caught:
        try:
            raise DistNetworkError("Connection closed by peer [::1]:9")
        except DistNetworkError as loss:
            defect = KeyError("a defect of ours")
            if hidden:
                raise defect from None
            defect.__context__ = loss
            raise defect  # noqa: B904
    assert rendezvous.lost_process(caught.value) == ""


def test_stderr_stays_while_the_store_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads write there just when something fails: the watchdog, faulthandler."""
    before, seen = os.fstat(2), list[os.stat_result]()

    def connect(_: float) -> TCPStore:
        seen.append(os.fstat(2))
        raise DistNetworkError("gone")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(rendezvous, "connect", connect)
    assert not rendezvous.was_reported() and rendezvous.should_report()
    assert len(seen) == 2 and all(os.path.samestat(each, before) for each in seen)


def test_who_fails_asks_on_the_connection_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new one may break while it is made, as the keeper of the store ends too, and torch's C++ prints that."""

    def connect(_: float) -> TCPStore:
        raise AssertionError("connects anew")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(rendezvous, "connect", connect)
    monkeypatch.setattr(rendezvous, "_met", TCPStore("localhost", 0, is_master=True, wait_for_workers=False))
    assert not rendezvous.was_reported() and rendezvous.should_report()
    assert rendezvous.was_reported() and not rendezvous.should_report()

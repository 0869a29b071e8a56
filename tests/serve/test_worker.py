"""The process that computes, without its process: what comes to it, and what it does and leaves."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phalanx.infer import load_decoder
from phalanx.serve.messages import Cancel, Job, ToWorker
from phalanx.serve.worker import Mail, Worker


class Direct(Mail):
    """Messages that this process leaves for itself."""

    def deliver(self, *messages: ToWorker) -> None:
        for message in messages:
            self.inbox.put(message)


@pytest.fixture
def mail() -> Iterator[Direct]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Direct(ours)


def job(number: int, **asked: Any) -> Job:
    return Job(number, "gpt", "complete", {"prompt": "The", "options": asked}, time.monotonic() + 600)


def test_what_nobody_waits_for_is_not_computed(models: list[Path], mail: Direct) -> None:
    """Neither a text under way nor one that has not begun; the others go on."""
    gpt = load_decoder(models[3])
    worker = Worker({"gpt": gpt}, mail)
    mail.deliver(job(1, max_tokens=1000, seed=0), job(2, max_tokens=1000, seed=1))
    worker.turn()
    left, stays = (worker.texts[number].request for number in (1, 2))

    mail.deliver(Cancel(1), job(3, max_tokens=1000), Cancel(3))
    for _ in range(3):
        worker.turn()
    assert left.ended == "cancelled" and left.generated < stays.generated and not stays.ended
    assert list(worker.texts) == [2]

    mail.deliver(Cancel(2))
    worker.turn()
    assert not worker.texts and not gpt.engine.busy

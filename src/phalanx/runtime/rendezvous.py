"""How the processes of a run find each other, and which of them tells of an error that several have.

Each knows its number and an address from the environment, where rank 0 keeps a store. Under torchrun the agents keep
one there, while they start the processes again and again, and tell no process how often they did: what the last ones
left reads like this start's. So rank 0 opens another and leaves its port in the agents'. A port that was left by a
process that is gone refuses, and the right one follows.
"""

import datetime
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from torch.distributed import DistError, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from phalanx.errors import InputError
from phalanx.units import ranks

T = TypeVar("T")

ADDRESS = "PHALANX_STORE"  # of the store that this start of the processes shares, once it is known
REPORTED = "said"  # the store's key of how many processes have reported an error
_met: Store | None = None  # the connection on which this process met the others
PATIENCE = 25.0  # seconds until all must be here: with the start of Python less than the 30 that are promised


def rank() -> int:
    """Return this process's place among those of the run; 0 where it is alone."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """Return the number of processes of the run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def first_here() -> bool:
    """Return whether this process is the first of the run's on its machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def meet() -> Store | None:
    """Return the store of the processes once all are here; None for a single one. InputError names who is missing."""
    global _met
    if world() == 1:
        return None

    began = time.monotonic()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and ADDRESS not in os.environ:
        store = store_of_this_start(rank(), PATIENCE)
    else:
        store = connect(PATIENCE) if rank() else _host_store(PATIENCE)
    if store.add(f"start/{rank()}", 1) > 1:
        raise InputError(f"two processes say that they are rank {rank()}; give each a RANK of its own")
    wait_for_all(store, "start", PATIENCE - (time.monotonic() - began))
    _met = store
    return store


def store_of_this_start(rank: int, patience: float) -> Store:
    """Return a store of this start's own under torchrun. InputError if rank 0 opens none within `patience` seconds."""
    name, deadline = os.environ["MASTER_ADDR"], time.monotonic() + patience
    kept = _reach(_address(), patience)
    if rank == 0:
        store = TCPStore(name, 0, None, True, datetime.timedelta(seconds=patience), wait_for_workers=False)
        kept.set("phalanx", str(store.port))
        os.environ[ADDRESS] = f"{name}:{store.port}"
        return PrefixStore("phalanx", store)

    address = f"the address {name}"
    while time.monotonic() < deadline:
        if kept.check(["phalanx"]) and _listening(address := f"{name}:{kept.get('phalanx').decode()}", 0.5):
            os.environ[ADDRESS] = address
            return connect(patience)
        time.sleep(0.1)
    raise InputError(f"rank 0 of {world()} did not come in time; start every process where it reaches {address}")


def wait_for_all(store: Store, place: str, patience: float) -> None:
    """Wait until every process is at a place. InputError names who is missing after so many seconds. It is raised at
    once, and not printed, when another process has told of an error.
    """
    deadline = time.monotonic() + patience
    store.set(f"{place}/{rank()}/there", "")
    store.add(place, 1)

    while store.add(place, 0) < world():
        if store.check([REPORTED]):
            raise InputError("another process has told of an error")
        if time.monotonic() > deadline and store.add(f"{place}/counted", 1) == 1:  # one looks for thousands
            raise InputError(_missing_ranks([n for n in range(world()) if not store.check([f"{place}/{n}/there"])]))
        time.sleep(0.1 + world() / 2000)  # the store answers some ten thousand questions a second


def connect(patience: float) -> Store:
    """Open a connection of its own to the store. InputError when there is none within `patience` seconds."""
    return PrefixStore("phalanx", _reach(_address(), patience))


def _host_store(patience: float) -> Store:
    """Open the store of the others, at the address that all were given. InputError where its port is taken."""
    name, _, port = _address().rpartition(":")
    timeout = datetime.timedelta(seconds=patience)
    try:
        return PrefixStore("phalanx", TCPStore(name, int(port), world(), True, timeout, wait_for_workers=False))
    except DistError as error:
        raise InputError(
            f"rank 0 cannot listen at {_address()}: {str(error).split('message: ')[-1]}; "
            "set MASTER_PORT to a port that is free"
        ) from error


def _reach(address: str, patience: float) -> TCPStore:
    name, _, port = address.rpartition(":")
    store = None
    if _listening(address, patience):
        timeout = datetime.timedelta(seconds=patience)
        store = _within(patience, lambda: TCPStore(name, int(port), world(), False, timeout))
    if not store:
        raise InputError(
            f"rank {rank()} of {world()} finds no store at {address}; rank 0 keeps it: is rank 0 started, "
            "and are MASTER_ADDR and MASTER_PORT the same for all?"
        )
    return store


def _within(patience: float, ask: Callable[[], T]) -> T | None:
    """Return what the store answers; None when that is nothing, or an error, for so many seconds. It is asked in a
    thread, as the store's client waits without end for a listener that is stopped, or that is no store.
    """
    answers = list[T]()

    def wait() -> None:
        with suppress(InputError, DistError):
            answers.append(ask())

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(patience)
    return answers[0] if answers else None


def should_report() -> bool:
    """Return whether this process is the one to report an error that others may have too: the first to ask. Where there
    is no store to ask it is the first of each machine, and of all where rank 0 is missing.
    """
    if world() == 1:
        return True
    order = _within(2.0, lambda: _connection(2.0).add(REPORTED, 1))
    if order is not None:
        return order == 1
    alone = rank() == 1 and not _listening(_address(), 0.5)
    return rank() == 0 or first_here() or alone


def was_reported() -> bool:
    """Return whether a process has reported an error."""
    return bool(_within(1.0, lambda: _connection(1.0).check([REPORTED])))


def _connection(patience: float) -> Store:
    """Return the connection on which all have met, where they have: a new one may break while it is made, as rank 0
    ends too, which torch's C++ prints.
    """
    return _met or connect(patience)


def lost_process(error: BaseException) -> str:
    """Return the line to print for an error that comes of another process's end, or that was raised `from` one; nothing
    for others, such as a defect that showed while one was handled: its traceback is wanted.
    """
    text = str(error)
    if "gloo/transport" in text:
        text = text.partition("] ")[2].partition(". ")[0]
    elif not isinstance(error, DistError):
        # a pipeline's schedule raises errors of its own from torch's
        return lost_process(error.__cause__) if error.__cause__ else ""
    return f"rank {rank()} lost another process: {(text.splitlines() or ['no answer'])[0]}"


def _missing_ranks(missing: list[int]) -> str:
    return f"{ranks(missing)} of {world()} did not come in time; start every process where it reaches {_address()}"


def _address() -> str:
    if known := os.environ.get(ADDRESS):
        return known
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise InputError(f"WORLD_SIZE is {world()} but {missing[0]} is not set; torchrun or srun sets them all")
    return f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"


def _listening(address: str, patience: float) -> bool:
    """Return whether somebody listens at an address within so many seconds. (The store would log its attempts.)"""
    name, _, port = address.rpartition(":")
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            socket.create_connection((name, int(port)), timeout=patience).close()
            return True
        except OSError:
            time.sleep(0.1)
    return False

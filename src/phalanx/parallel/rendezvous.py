"""How processes on several machines find each other: a store that is this start's own, and an interface that the others
can reach.

torchrun's agents keep one store while they start the processes again and again, and tell no process how often they
did: what the last ones left there reads like this start's. So the first rank opens a new store and leaves its port in
the old one. A port that was left by a process that is gone refuses, and the right one follows.

Gloo takes the interface that the machine's own name resolves to; where that is 127.0.1.1, as on Debian, nobody gets
through. The way to the first rank is one that works, and for its own neighbours the way to anybody else.
"""

import datetime
import fcntl
import ipaddress
import os
import socket
import struct
import time

from torch.distributed import TCPStore  # type: ignore[attr-defined]

PATIENCE = datetime.timedelta(seconds=30)
_SIOCGIFADDR = 0x8915


def meet(rank: int, world: int) -> TCPStore:
    """A store that all processes of this start share; RuntimeError or DistError when they do not come."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return TCPStore(host, port, world, is_master=rank == 0, timeout=PATIENCE)
    kept = TCPStore(host, port, timeout=PATIENCE)
    if rank == 0:
        store = TCPStore(host, 0, is_master=True, timeout=PATIENCE, wait_for_workers=False)
        kept.set("phalanx", str(store.port))
        return store
    deadline = time.monotonic() + PATIENCE.total_seconds()
    while not _listens(host, port := int(kept.get("phalanx"))):
        if time.monotonic() > deadline:
            raise RuntimeError(f"nobody listens at {host}:{port}")
        time.sleep(0.1)
    return TCPStore(host, port, timeout=PATIENCE)


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def choose_interface(store: TCPStore, rank: int, world: int) -> None:
    """Let Gloo talk over an interface from which this machine reaches others, unless the user chose one."""
    mine = _source(os.environ["MASTER_ADDR"])
    store.set(f"address/{rank}", mine)
    if not _outward(mine):
        others = (store.get(f"address/{other}").decode() for other in reversed(range(world)))
        mine = _source(next(filter(_outward, others), mine))
    for _, name in socket.if_nameindex():
        if _outward(mine) and _address(name) == mine:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def _outward(address: str) -> bool:
    return bool(address) and not ipaddress.ip_address(address).is_loopback


def _source(host: str) -> str:
    """The IPv4 address from which this machine would write to `host`; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def _address(interface: str) -> str:
    """An interface's IPv4 address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            found = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", interface.encode()))
        except OSError:
            return ""
    return socket.inet_ntoa(found[20:24])

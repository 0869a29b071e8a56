"""Choice of the network interface that Gloo talks over.

Gloo takes the one that the machine's own name resolves to; where that is 127.0.1.1, as on Debian, nobody gets through.
The way to the first rank is one that works, and for its own neighbours the way to anybody else.
"""

import fcntl
import ipaddress
import os
import socket
import struct

from torch.distributed import Store  # type: ignore[attr-defined]

_SIOCGIFADDR = 0x8915


def choose(store: Store, rank: int, world: int) -> None:
    """Let Gloo talk over an interface from which this machine reaches others, unless the user chose one."""
    mine = _source(os.environ["MASTER_ADDR"])
    store.set(f"address/{rank}", mine)
    if not _outward(mine):
        others = (store.get(f"address/{number}").decode() for number in reversed(range(world)))
        mine = _source(next(filter(_outward, others), mine))
    for _, name in socket.if_nameindex():
        if _outward(mine) and _address(name) == mine:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def _outward(address: str) -> bool:
    return bool(address) and not ipaddress.ip_address(address).is_loopback


def _source(host: str) -> str:
    """Return the IPv4 address from which this machine would write to `host`, sending nothing; "" if there is no way."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def _address(interface: str) -> str:
    """Return an interface's IPv4 address; nothing where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            reply = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", interface.encode()))
        except OSError:
            return ""
    return socket.inet_ntoa(reply[20:24])

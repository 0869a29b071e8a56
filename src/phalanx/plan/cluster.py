"""A cluster: facts of its GPUs, its nodes and its links, read from a TOML file, and the few constants that are fitted.

Each file says beside every number where it comes from. `[fitted]` holds what benchmarks/fit.py found: it is the same
for all clusters of a generation of GPUs, but for `host`, which belongs to the machine around them.
"""

import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from phalanx.errors import InputError
from phalanx.foreign import complaint


class Part(BaseModel):
    """Common rules of every table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GPU(Part):
    """One device: FLOP/s, bytes and bytes per second."""

    name: str
    units: PositiveInt  # that compute a tile of a product each: streaming multiprocessors, or cores
    memory: PositiveFloat
    bandwidth: PositiveFloat
    peak: dict[str, PositiveFloat]  # by precision


class Link(Part):
    """A group of devices that talk. A ring of n moves 2 (n - 1)/n of the bytes that it sums at `bandwidth`."""

    bandwidth: PositiveFloat  # bytes per second: inside a node of one GPU, between nodes of one node
    latency: PositiveFloat  # seconds of any collective
    hop: PositiveFloat  # seconds more for each further member; between nodes for each doubling of them
    by_members: dict[int, PositiveFloat] = {}  # bandwidth of groups of so many, where the wiring is uneven
    scatter: PositiveFloat = 1  # of this bandwidth, what all-gather and reduce-scatter have


class Fitted(Part):
    """Constants that benchmarks/fit.py fits to published measurements."""

    matrix: float = Field(gt=0, le=1)  # of the peak that a long product sustains
    ramp: float = Field(ge=0)  # columns of k that a tile of a product could have done while it starts and ends
    stream: float = Field(gt=0, le=1)  # of the memory's bandwidth that a kernel of few operations sustains
    host: PositiveFloat  # seconds between two launches
    power: PositiveFloat = 1  # of its clock that the board keeps under load, against others of its generation
    kernel: PositiveFloat = 3e-6  # seconds that a kernel takes though it had nothing to do
    pause: float = Field(default=0, ge=0)  # seconds that the device stands still at each pass through a block


class Slowdown(Part):
    """How many times longer kernels take beside busy neighbours."""

    products: float = Field(ge=1)
    others: float = Field(ge=1)


class Kernels(Part):
    """Measured speeds of one model family's kernels, within its training steps."""

    attention: PositiveFloat  # FLOP/s of attention in one kernel
    moved: dict[str, PositiveFloat]  # by kind of kernel, bytes a second, of the bytes that plan/kernels.py counts


class Measured(Part):
    """What `phalanx calibrate` measures of kernels, in place of the roofline: a processor's are often bound by neither
    products nor memory.
    """

    products: dict[str, dict[int, PositiveFloat]]  # FLOP/s by precision, and by side of a cube of as many operations
    families: dict[str, Kernels]
    busy: dict[int, Slowdown] = {}  # by devices of a node that compute
    hidden: float = Field(ge=0, le=1)  # of a collective under compute, what costs nothing


class Cluster(Part):
    """A kind of node and how many of it are joined how."""

    title: str
    gpu: GPU
    node: PositiveInt  # GPUs in a node
    inside: Link
    between: Link
    fitted: Fitted
    measured: Measured | None = None
    hour: float = Field(default=0, ge=0)  # price of a GPU for an hour, dollars; 0: unknown

    def precision(self, asked: str) -> str:
        """Return what a run of precision.dtype=`asked` multiplies in on these GPUs. InputError for what they lack."""
        has = [dtype for dtype in ("bf16", "fp16", "fp8", "fp32") if dtype in self.gpu.peak]
        if asked == "auto":
            return "bf16" if "bf16" in has else "fp32"
        if asked not in has:
            raise InputError(f"precision.dtype={asked} is not in {self.gpu.name}; use {', '.join(has)}")
        return asked


def names() -> list[str]:
    """Return the names of the clusters that come with Phalanx, sorted."""
    return sorted(f.name.removesuffix(".toml") for f in files("phalanx").joinpath("clusters").iterdir())


@cache
def load(name: str) -> Cluster:
    """Return a cluster by its name, or by the path of a TOML file. InputError where there is none, or none that is
    valid.
    """
    if name in names():
        return parse(files("phalanx").joinpath("clusters", name + ".toml").read_text(), name)
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        return parse(path.read_text(), name)
    raise InputError(f"no cluster {name!r}; use {', '.join(names())}, or the path of a .toml file")


def parse(text: str, name: str) -> Cluster:
    """Return a cluster from the text of its file. InputError where that is not valid."""
    try:
        return Cluster.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name}: not TOML: {error}") from None
    except ValidationError as error:
        raise complaint(name, error, {}) from None

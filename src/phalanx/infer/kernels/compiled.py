"""The compiled kernels: made once by the machine's own compiler, for its own processor, and kept."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch

from phalanx import durable, processor
from phalanx.infer import artifact_cache

SOURCES = files("phalanx.infer.kernels")
PATIENCE = 300  # seconds that the compiler may take
OPTIONS = "-std=c++17", "-O3", "-fopenmp", "-fno-math-errno", "-Wno-ignored-attributes", "-shared", "-fPIC"
POINTER, INT = ctypes.c_void_p, ctypes.c_int
FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "blocks_new": (POINTER, (INT, INT, INT, INT, INT, INT)),
    "blocks_add": (None, (POINTER, INT, ctypes.c_float, POINTER)),
    "blocks_run": (None, (POINTER, POINTER, POINTER, INT, POINTER, POINTER, ctypes.c_int64, INT)),
    "blocks_free": (None, (POINTER,)),
    "linear_new": (POINTER, (INT, INT, INT, POINTER, POINTER)),
    "linear_run": (None, (POINTER, POINTER, INT, POINTER, INT)),
    "linear_free": (None, (POINTER,)),
}


@cache
def unavailable() -> str:
    """Return why there are no kernels on this machine; "" if there are. The first call compiles them."""
    if torch.cuda.is_available():
        return "it is for machines without a GPU"
    if platform.system() != "Linux" or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return "it is for Linux on processors with AVX2"
    if not _compiler():
        return "no C++ compiler is installed (g++, or what CXX names)"
    try:
        functions()
    except (OSError, subprocess.SubprocessError) as error:
        lines = (getattr(error, "stderr", None) or str(error)).splitlines()
        message = next((line for line in lines if "error" in line), lines[0])
        return f"{_compiler()} could not make its kernels: {message.strip()}"
    return ""


@cache
def functions() -> Any:
    """Return the kernels' functions, compiled where they are not kept. OSError or SubprocessError where that fails."""
    threads = _threads()
    made_of = version(), _compiler(), OPTIONS, _instructions(), processor.name(), processor.features(), threads
    name = hashlib.sha256(repr(made_of).encode()).hexdigest()[:24]
    file = artifact_cache.folder() / f"kernels-{name}.so"
    if not file.exists():
        _compile(file, threads)
    library = ctypes.CDLL(str(file))
    for function, (result, arguments) in FUNCTIONS.items():
        getattr(library, function).restype = result
        getattr(library, function).argtypes = arguments
    return library


@cache
def version() -> str:
    """Return the SHA-256 of the kernels' source, in hexadecimal, which names what was compiled from it."""
    sources = {file.name: file for file in SOURCES.iterdir() if file.name.endswith((".cpp", ".h"))}
    return hashlib.sha256(b"".join(sources[name].read_bytes() for name in sorted(sources))).hexdigest()


def _instructions() -> str:
    """Return the compiler's option: all instructions of this processor, or AVX2's where torch's own switch says so."""
    return "-march=x86-64-v3" if os.environ.get("ATEN_CPU_CAPABILITY") == "avx2" else "-march=native"


def _threads() -> list[str]:
    """Return the OpenMP library that torch has loaded, as a list of at most one: two would fight for the processors."""
    mapped = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    openmp = [path for path in mapped if Path(path).name.startswith(("libgomp", "libiomp", "libomp"))]
    beside = str(Path(torch.__file__).parent)  # where wheels have it; others may have brought their own
    return sorted(openmp, key=lambda path: not path.startswith(beside))[:1]


def _compile(file: Path, threads: list[str]) -> None:
    print("phalanx: compiling kernels for this processor, once", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder, as_file(SOURCES) as sources:
        made = Path(folder) / file.name
        words = [_compiler(), *OPTIONS, _instructions(), str(sources / "blocks.cpp"), *threads, "-o", str(made)]
        subprocess.run(words, check=True, capture_output=True, text=True, timeout=PATIENCE)
        durable.rename(made, file)


def _compiler() -> str:
    return next((name for name in (os.environ.get("CXX"), "g++") if name and shutil.which(name)), "")

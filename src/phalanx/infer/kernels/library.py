"""The compiled kernels: made once by the machine's own compiler, for its own processor, and kept."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from phalanx.infer import store

OPTIONS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-Wno-ignored-attributes", "-shared",
           "-fPIC")  # fmt: skip
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
def lacking() -> str:
    """Why the kernels cannot be had here; nothing if they can. The first time they are compiled for that."""
    if torch.cuda.is_available():
        return "it is for machines without a GPU"
    if platform.system() != "Linux" or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return "it is for Linux on processors with AVX2"
    if not _compiler():
        return "no C++ compiler is installed (g++ or clang++, or what CXX names)"
    try:
        library()
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        return f"{_compiler()} could not make its kernels: {said.strip().splitlines()[-1]}"
    return ""


@cache
def library() -> Any:
    """The functions of the kernels; OSError or CalledProcessError where they cannot be made."""
    source = files("phalanx.infer.kernels").joinpath("blocks.cpp").read_bytes()
    flags = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    known = "\n".join(line for line in flags.splitlines() if line.startswith(("flags", "model name")))
    threads = _threads()
    name = hashlib.sha256(source + repr((_compiler(), OPTIONS, known, threads)).encode()).hexdigest()[:24]
    file = store.folder() / f"kernels-{name}.so"
    if not file.exists():
        _compile(source, file, threads)
    found = ctypes.CDLL(str(file))
    for function, (result, arguments) in FUNCTIONS.items():
        getattr(found, function).restype = result
        getattr(found, function).argtypes = arguments
    return found


def _threads() -> list[str]:
    """The OpenMP library that torch has loaded: two of them would keep the processors from each other."""
    torch.get_num_threads()
    mapped = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    return sorted(path for path in mapped if Path(path).name.startswith(("libgomp", "libiomp", "libomp")))[:1]


def _compile(source: bytes, file: Path, threads: list[str]) -> None:
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        code, made = Path(folder) / "blocks.cpp", Path(folder) / file.name
        code.write_bytes(source)
        words = [_compiler(), *OPTIONS, str(code), *threads, "-o", str(made)]
        subprocess.run(words, check=True, capture_output=True, text=True)
        made.rename(file)


def _compiler() -> str:
    for name in (os.environ.get("CXX", ""), "g++", "clang++"):
        if name and shutil.which(name):
            return name
    return ""

"""How many CPUs a process may use, from files like those of the kernel."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from phalanx import processor

V2, V1 = "0::/a/b\n", "4:memory:/a\n3:cpu,cpuacct:/docker/b\n1:name=systemd:/\n0::/\n"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.mark.parametrize(
    ("groups", "files", "cpus"),
    [
        (V2, {}, 16),
        (V2, {"a/b/cpu.max": "max 100000\n"}, 16),
        (V2, {"a/b/cpu.max": "200000 100000\n"}, 2),
        (V2, {"a/b/cpu.max": "250000 100000\n"}, 3),
        (V2, {"a/b/cpu.max": "5000 100000\n"}, 1),
        (V2, {"a/b/cpu.max": "9900000 100000\n"}, 16),
        (V2, {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
        (V2, {"cpu.max": "400000 100000\n"}, 4),
        (V2, {"unified/a/b/cpu.max": "400000 100000\n"}, 4),
        (V2, {"a/b/cpu.max": "garbage\n"}, 16),
        (V1, {"cpu,cpuacct/docker/b/cpu.cfs_quota_us": "-1\n",
              "cpu,cpuacct/docker/b/cpu.cfs_period_us": "100000\n"}, 16),
        (V1, {"cpu,cpuacct/docker/b/cpu.cfs_quota_us": "150000\n",
              "cpu,cpuacct/docker/b/cpu.cfs_period_us": "50000\n"}, 3),
        (V1, {"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ("", {}, 16),
    ],
)  # fmt: skip
def test_a_quota_bounds_the_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str], cpus: int
) -> None:
    """Of the group or of one above it, version 1 or 2, where a container's own group is the mount too."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    write(tmp_path, {"proc/self/cgroup": groups} | {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert processor.cpus(tmp_path) == cpus


def test_without_such_files_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7})
    assert processor.cpus(tmp_path) == 3


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="Linux schedules threads one by one")
def test_a_thread_computes_in_a_batch_and_so_do_those_it_starts() -> None:
    def policies() -> Iterator[int]:
        yield os.sched_getscheduler(0)
        processor.schedule_as_batch()
        with ThreadPoolExecutor(1) as started:
            yield started.submit(os.sched_getscheduler, 0).result()

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(list, policies()).result() == [os.sched_getscheduler(0), os.SCHED_BATCH]


def test_where_it_is_not_allowed_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse, raising=False)
    processor.schedule_as_batch()

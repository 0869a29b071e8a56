"""`python -m tests.unchanged [COMMIT]`: does the tree at hand compute what the commit did? A line for each job."""

import argparse
import fcntl
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from tests.unchanged.differences import verdict
from tests.unchanged.jobs import BEFORE, EXPECTED, INPUTS, JOBS, Job
from tests.unchanged.sides import Failed, Pair, make


def main() -> int:
    """The exit code: 1 where something differs that should not, 2 where that cannot be told."""
    parser = argparse.ArgumentParser(prog="python -m tests.unchanged", description=__doc__)
    parser.add_argument("commit", nargs="?", default=BEFORE, help="what to compare with; by default %(default)s")
    parser.add_argument("--keep", type=Path, help="a folder where the commit's results stay for the next time")
    parser.add_argument("--only", default="*", help="the jobs of such names, as 'plan-*'")
    parser.add_argument("--write", action="store_true", help="write the exact fixtures anew, and compare nothing")
    asked = parser.parse_args()
    if asked.write:
        from tests.unchanged import exact

        print(*exact.write(), sep="\n")
        return 0

    jobs = [job for job in JOBS if fnmatch(job.name, asked.only)]
    if not jobs:
        parser.error(f"no job is called {asked.only}")
    try:
        with _folder(asked.keep) as folder:
            pair = make(asked.commit, folder)
            _prepare(pair)
            unexpected = _compare(pair, jobs)
            if unexpected:
                where = f"{pair.old.folder} and {pair.new.folder}" if asked.keep else "gone; --keep DIR keeps them"
                print(f"what both wrote: {where}")
    except Failed as error:
        print(f"tests.unchanged: {error}", file=sys.stderr)
        return 2
    return 1 if unexpected else 0


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Where both sides work: a folder that is kept, one command at a time, or one that goes."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="unchanged-") as folder:
            yield Path(folder)
        return
    keep = keep.resolve()
    keep.mkdir(parents=True, exist_ok=True)
    with (keep / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another command works in {keep}; waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield keep


def _prepare(pair: Pair) -> None:
    """What both sides begin from."""
    print("making what both begin from, where it is not there yet", flush=True)
    with ThreadPoolExecutor(2) as pool:
        for job, error in zip(INPUTS, pool.map(pair.old.do, INPUTS), strict=True):
            if error:
                raise Failed(f"{job.name}: {error} in the older tree")


def _compare(pair: Pair, jobs: Sequence[Job]) -> int:
    """Do the jobs, two at a time, and say of each what differs; how many differ that should not."""
    began, unexpected = time.monotonic(), 0
    done, ahead = 0.0, sum(job.effort for job in jobs)
    with ThreadPoolExecutor(2) as pool:
        running = {pool.submit(pair.differences, job): job for job in jobs}
        try:
            for number, future in enumerate(as_completed(running), 1):
                job = running[future]
                lines, bad = verdict(job.name, future.result(), EXPECTED)
                unexpected += bad
                done, ahead = done + job.effort, ahead - job.effort
                left = int((time.monotonic() - began) / done * ahead)
                lines[0] = f"{number:>3}/{len(jobs)}  {left // 60}:{left % 60:02} left  {lines[0]}"
                print(*lines, sep="\n", flush=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    print(f"{len(jobs)} jobs, {len(jobs) - unexpected} as they should be, {unexpected} not")
    return unexpected


if __name__ == "__main__":
    sys.exit(main())

"""Everything that is compared with others, one subject after another, as JSON and pictures: `make bench`.

    python -m benchmarks [answering continuing training preparing serving starting] [--folder bench]

Each subject is a command of its own (--help of benchmarks.latency, generation, train, prepare, loader, load, starting),
in which ours and the others take turns. What is there already is drawn, not measured again; delete its JSON for that.
Each JSON tells date, commit, machine, versions and command. On a GPU precisions and shapes are those of one.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.origin import machine, origin
from benchmarks.train import on_gpu
from phalanx import durable
from phalanx.report.canvas import COLORS, FAINT, canvas

Panels = Mapping[str, Mapping[str, float]]  # of each panel, a figure by contender


class Measurement(NamedTuple):
    """A command but for where its JSON goes, which figures to draw of that, and what they are."""

    command: str
    panels: Callable[[Any], Panels]
    unit: str


def _by(panel: str, value: str) -> Callable[[Any], Panels]:
    def panels(lines: Any) -> Panels:
        found: dict[str, dict[str, float]] = {}
        for line in lines:
            found.setdefault(panel.format(**line), {})[line["name"]] = line[value]
        return found

    return panels


def _trained(told: Any) -> Panels:
    return {told["dtype"]: {name: row["tokens_per_s"] for name, row in told["results"].items()}}


def _loaded(rows: Any) -> Panels:
    return {row["name"]: {"phalanx": 1e3 * row["real_s"], "the same batch": 1e3 * row["synthetic_s"]} for row in rows}


def _started(told: Any) -> Panels:
    return {subject: figures for subject, figures in told.items() if isinstance(figures, dict)}


# Shape, precision and contestants, on CPUs and on a GPU.
TRAINED = {
    False: (
        ("small", "fp32", "phalanx,phalanx-compiled,script,script-compiled,hf,hf-compiled"),
        ("small", "bf16", "phalanx,phalanx-compiled,script,hf"),
        ("gpt2", "fp32", "phalanx-compiled,script-compiled,hf-compiled"),
        ("bert-base-128", "fp32", "phalanx-compiled,hf-compiled"),
        ("bert-base-128-ragged", "fp32", "phalanx,hf,hf-compiled"),
    ),
    True: (
        ("gpt2-1.2b", "bf16", "phalanx-compiled,script-compiled,hf-compiled"),
        ("gpt2-1.2b", "fp8", "phalanx-compiled"),
        ("gpt2-355m", "bf16", "phalanx-compiled,script-compiled,hf-compiled"),
        ("bert-large-128-ragged-gpu", "bf16", "phalanx-compiled,hf-compiled"),
        ("bert-large-512-gpu", "bf16", "phalanx-compiled,hf-compiled"),
        ("bert-large-512-ragged-gpu", "bf16", "phalanx-compiled,hf-compiled"),
    ),
}


def subjects(gpu: bool) -> dict[str, dict[str, Measurement]]:
    """By name; on a GPU in precisions and shapes of one."""
    precisions = ("fp16",) if gpu else ("fp32", "int8")
    return {
        "answering": {
            f"{size}-{precision}": Measurement(
                f"latency {size} --precisions {precision} --rounds 3 --out", _by("{cell}", "p50"), "ms, the median"
            )
            for size in ("bert-base", "bert-large") for precision in precisions
        },
        "continuing": {
            "gpt2": Measurement(
                f"generation --precisions {','.join(precisions)} --rounds 3 --out",
                _by("{precision}, batch {batch}", "tokens_per_s"),
                "tokens/s",
            )
        },
        "training": {
            f"{shape}-{dtype}": Measurement(
                f"train --shape {shape} --dtype {dtype} --rounds 3 --contestants {names} --json", _trained, "tokens/s"
            )
            for shape, dtype, names in TRAINED[gpu]
        },
        "preparing": {
            "prepare": Measurement("prepare --json", _by("{kind}", "mb_per_s"), "MB/s"),
            "loader": Measurement("loader --json", _loaded, "ms a step"),
        },
        "serving": {
            "load": Measurement("load --out", lambda told: {"200 clients": {
                server["name"]: server["kinds"]["all"]["per_s"] for server in told["servers"]}}, "requests/s")
        },
        "starting": {"starting": Measurement("starting --json", _started, "s, or GB/s of disks")},
    }  # fmt: skip


def draw(panels: Panels, unit: str, title: str, file: Path) -> None:
    """Bars, ours in a colour of its own; the title tells what, when and on what."""
    with canvas(1, len(panels), (3.4, 3.2)) as made:
        for axes, (panel, figures) in zip(made.axes, panels.items(), strict=True):
            names = list(figures)[::-1]
            colors = [COLORS[0] if name.startswith("phalanx") else FAINT for name in names]
            axes.bar_label(axes.barh(names, [figures[name] for name in names], color=colors), fmt="%.4g", padding=3)
            axes.set_title(panel, loc="left")
            axes.set_xlabel(unit)
            axes.margins(x=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        made.axes[0].figure.suptitle(title, x=0.01, ha="left")
    durable.write(file, made.png)


def main() -> None:
    """Run what is asked for and is not there."""
    known = subjects(on_gpu())
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("subjects", nargs="*", help=f"of {', '.join(known)}; all by default")
    parser.add_argument("--folder", type=Path, default=Path("bench"))
    words = parser.parse_args()
    if unknown := set(words.subjects) - set(known):
        parser.error(f"no subject {', '.join(unknown)}; there are {', '.join(known)}")
    words.folder.mkdir(parents=True, exist_ok=True)
    wanted = {name: one for subject in words.subjects or known for name, one in known[subject].items()}
    print(machine(), flush=True)
    for number, (name, one) in enumerate(wanted.items(), 1):
        file = words.folder / f"{name}.json"
        print(f"\n{number} of {len(wanted)}: {name}", flush=True)
        if not file.exists() and not measure(one, file):
            print(f"{name} failed; the others go on")
            continue
        told = json.loads(file.read_text())
        came = told["origin"]
        print(f"{came['date']}, {came['commit']}: {came['machine']}")
        title = f"{name}, {came['date']}, {came['commit']}\n{came['machine'].split(';')[0]}"
        draw(one.panels(told["figures"]), one.unit, title, file.with_suffix(".png"))
        print(f"{file} and {file.with_suffix('.png')}")


def measure(one: Measurement, file: Path) -> bool:
    """Its figures, and where they come from, into a file; whether there are any."""
    module, *options = one.command.split()
    partial = file.with_suffix(".partial")
    command = [sys.executable, "-m", f"benchmarks.{module}", *options, str(partial)]
    came = origin(command[2:-1])
    if subprocess.run(command, check=False).returncode:
        return False
    durable.write(file, json.dumps({"origin": came, "figures": json.loads(partial.read_text())}, indent=1).encode())
    partial.unlink()
    return True


if __name__ == "__main__":
    main()

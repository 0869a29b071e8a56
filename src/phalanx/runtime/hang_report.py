"""Diagnosis of a hang from the states of all processes: who waits for whom.

Who has begun a collective that others of its group have not has arrived there; the others are late, and of these the
ones that wait nowhere themselves are the cause. Messages between stages of a pipeline are not recorded on CPUs: there
the stacks tell who waits.
"""

from collections.abc import Mapping

from phalanx.runtime.flight_recorder import Operation, ProcessState
from phalanx.units import ranks

Answers = Mapping[int, ProcessState]  # by rank
Names = Mapping[int, str]

SHOWN = 8  # of a list that may have thousands


def diagnose(answers: Answers, silent: Names, timeout: float) -> str:
    """Return who has been waiting for whom for `timeout` seconds, and where the late ones are; nothing if nobody has.
    `silent` are the processes that gave no answer.
    """
    awaited = _awaited(answers, silent, timeout)
    late = {number for _, missing in awaited for number in missing}
    arrived = {n for operation, missing in awaited for n in operation["ranks"] if n not in missing}
    causes = late - arrived or late

    awaited.sort(key=lambda each: causes.isdisjoint(each[1]))
    lines = [_awaits(operation, missing) for operation, missing in awaited]
    if not lines:
        lines, causes = _unlike(answers, timeout)
    if not lines:
        lines, causes = _messages(answers, timeout)
    if not lines:
        return ""

    stacks = [describe(number, answers[number]) for number in sorted(causes - silent.keys())[:SHOWN]]
    stacks += [
        f"rank {number} ({process}) does not answer: it was stopped, it or its machine is gone, or it is in code that "
        "lets no other thread run" for number, process in sorted(silent.items())[:SHOWN]
    ]  # fmt: skip
    return "\n  ".join([f"the run hangs at {lines[0]}", *(f"and at {line}" for line in lines[1:SHOWN]), *stacks])


def describe(number: int, answer: ProcessState) -> str:
    """Return where a rank is: the stacks of its threads, on lines of their own."""
    lines = [f"rank {number} ({answer['process']}) is at"]
    for thread, frames in answer["stacks"].items():
        lines += [f"  {thread}:", *(f"    {frame}" for frame in frames[-12:])]
    return "\n  ".join(lines)


def _awaited(answers: Answers, silent: Names, timeout: float) -> list[tuple[Operation, list[int]]]:
    """Return each group's first collective that some ranks have not begun `timeout` seconds after others, and these
    ranks.
    """
    first: dict[str, tuple[Operation, list[int]]] = {}
    for operation in (each for answer in answers.values() for each in answer["pending"]):
        group, number = operation["group"], operation["number"]
        missing = [n for n in operation["ranks"] if n in silent or answers[n]["begun"].get(group, 0) < number]
        sooner = group not in first or number < first[group][0]["number"]
        if number and missing and sooner and operation["age"] >= timeout:
            first[group] = operation, missing
    return list(first.values())


def _awaits(operation: Operation, missing: list[int]) -> str:
    arrived = [number for number in operation["ranks"] if number not in missing]
    return (
        f"{operation['what']} among {ranks(operation['ranks'])} ({operation['axis']}): "
        f"{ranks(arrived)} arrived {operation['age']:.0f} s ago, {ranks(missing)} did not"
    )


def _unlike(answers: Answers, timeout: float) -> tuple[list[str], set[int]]:
    """Find different collectives that ranks of a group take for the same one. Return a line for each, and
    these ranks.
    """
    collectives: dict[tuple[str, int], dict[str, set[int]]] = {}
    for number, answer in sorted(answers.items()):
        for each in answer["pending"]:
            if each["number"] and each["age"] >= timeout:
                kinds = collectives.setdefault((each["group"], each["number"]), {})
                kinds.setdefault(f"{each['what']} ({each['axis']})", set()).add(number)

    unlike = [kinds for kinds in collectives.values() if len(kinds) > 1]
    lines = [", ".join(f"{ranks(alike)} at {what}" for what, alike in kinds.items()) for kinds in unlike]
    apart = {number for kinds in unlike for alike in kinds.values() for number in alike}
    return [f"different collectives: {line}" for line in lines], apart


def _messages(answers: Answers, timeout: float) -> tuple[list[str], set[int]]:
    """Find waits that no collective explains: of one stage for another, or for a network that does not deliver. Return
    a line, and the ranks to blame.
    """
    waiting = {number for number, answer in answers.items() if answer["still"] >= timeout and _waits(answer)}
    line = f"a message of another stage, or of a collective that all have begun: {ranks(waiting)} waited for it"
    return [line] if waiting else [], answers.keys() - waiting or waiting


def _waits(answer: ProcessState) -> bool:
    innermost = answer["stacks"]["MainThread"][-1]
    return "torch/distributed" in innermost or "phalanx/parallel" in innermost or bool(answer["pending"])

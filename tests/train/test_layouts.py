"""A layout that does not fit is refused, with what would fit."""

import pytest

from phalanx.config import Config
from phalanx.errors import InputError
from phalanx.train.resolve import Target, resolve
from phalanx.train.schedule import check_schedule


def laid_out(processes: int, length: int = 64, **sections: dict[str, object]) -> Config:
    small = {"vocab": 512, "layers": 4, "hidden": 32, "heads": 4}
    words = {**sections, "model": {**small, **sections.get("model", {})}, "data": {"sequence": length}}
    return resolve(Config.model_validate(words), Target(processes))


@pytest.mark.parametrize(
    ("tp", "model", "said"),
    [
        (4, {"ffn": 102}, "layout.tp=4 does not divide model.ffn=102; use one of 1, 2"),
        (3, {}, "layout.tp=3 does not divide model.heads=4; use one of 1, 2, 4"),
        (
            4,
            {"vocab": 300, "pad_vocab_to": 512},
            "by model.pad_vocab_to=512; use model.pad_vocab_to=128, or layout.tp=1, 2",
        ),
        (4, {"vocab": 301, "pad_vocab_to": 7}, "by model.pad_vocab_to=7; use model.pad_vocab_to=8, or layout.tp=1"),
        (96, {"heads": 96, "hidden": 96, "vocab": 960, "pad_vocab_to": 96}, ""),
    ],
)
def test_tensor_parallelism(tp: int, model: dict[str, object], said: str) -> None:
    layout = {"tp": tp, "sequence_parallel": False}
    if not said:
        assert laid_out(tp, model=model, layout=layout).layout.tp == tp
        return
    with pytest.raises(InputError) as refused:
        laid_out(tp, model=model, layout=layout)
    assert str(refused.value).endswith(said)


@pytest.mark.parametrize(
    ("micro_batch", "rampup", "refused"),
    [(2, (4, 4, 16), False), (4, (4, 4, 16), True), (3, (6, 2, 16), True), (0, (4, 4, 16), False)],
)
def test_every_batch_of_a_ramp_up_fills_the_pipeline(micro_batch: int, rampup: tuple[int, ...], refused: bool) -> None:
    train, layout = {"batch": 8, "rampup": rampup}, {"pp": 2, "micro_batch": micro_batch}
    if refused:
        with pytest.raises(
            InputError, match=r"a pipeline of 2 takes a whole number, at least 2: use layout.micro_batch="
        ):
            laid_out(2, train=train, layout=layout)
    else:
        assert laid_out(2, train=train, layout=layout).layout.micro_batch in (1, 2)


def test_a_ramp_up_divides_among_replicas() -> None:
    with pytest.raises(
        InputError, match=r"rampup=\[4, 2, 16\]: 6 sequences .*first batch .* increment .* multiples of 4"
    ):
        laid_out(4, train={"batch": 8, "rampup": (4, 2, 16)})


@pytest.mark.parametrize(
    ("processes", "layout", "more", "said"),
    [
        (4, {}, {"batch": 9}, "train.batch=9: 9 sequences do not divide among layout.dp=4 replicas; "
         "use train.batch=8 or 12, or layout.dp=1 or 3"),
        (4, {}, {"batch": 3}, "use train.batch=4, or layout.dp=1 or 3"),
        (2, {"pp": 2, "schedule": "interleaved"}, {}, "layout.schedule=interleaved has several stages a process, but "
         "layout.chunks=1; use layout.chunks=2"),
        (4, {"pp": 4, "schedule": "interleaved"}, {}, "but layout.chunks=1; use 1f1b"),
        (2, {"pp": 2, "chunks": 2}, {}, "layout.chunks=2 is for layout.schedule=interleaved, not 1f1b; use that, or "
         "layout.chunks=1"),
        (2, {"pp": 2, "chunks": 3, "schedule": "interleaved"}, {}, "layout.pp=2 makes 6 stages, 3 a process, but "
         "model.layers=4; use layout.pp=1 at most"),
        (8, {"pp": 8}, {}, "layout.pp=8 makes 8 stages, but model.layers=4; use layout.pp=4 at most"),
        (2, {"pp": 2, "micro_batch": 3}, {"batch": 8}, "a replica's 8 sequences make 2.66667 micro-batches of "
         "layout.micro_batch=3; a pipeline of 2 takes a whole number, at least 2: use layout.micro_batch=1, 2 or 4"),
        (4, {"pp": 2, "schedule": "interleaved", "chunks": 2, "micro_batch": 1}, {"batch": 6},
         "a pipeline of 2 takes a multiple of 2: use train.batch=4 or a multiple"),
        (8, {"cp": 2, "shard_ways": 3}, {"batch": 8}, "layout.shard_ways=3 must be a multiple of layout.cp=2 and "
         "divide dp × cp = 8; use 2, 4 or 8, or 0 for all"),
        (3, {"shard_ways": 2}, {"batch": 3}, "divide dp × cp = 3; use 1 or 3, or 0 for all"),
        (4, {"tp": 4}, {"sequence": 62}, "data.sequence=62 is no multiple of 4 (layout.tp=4 equal parts); use 60, or "
         "layout.sequence_parallel=false"),
        (8, {"cp": 4, "tp": 2}, {"sequence": 63}, "data.sequence=63 is no multiple of 16 (2 × layout.cp=4 × "
         "layout.tp=2 equal parts); use 48"),
        (2, {"cp": 2, "sequence_parallel": False}, {"sequence": 63}, "no multiple of 4 (2 × layout.cp=2 equal "
         "parts); use 60"),
    ],
)  # fmt: skip
def test_a_refusal_names_what_would_do(
    processes: int, layout: dict[str, object], more: dict[str, int], said: str
) -> None:
    with pytest.raises(InputError) as refused:
        laid_out(processes, layout=layout, train={"batch": more.get("batch", 8)}, length=more.get("sequence", 64))
    assert str(refused.value).endswith(said) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("layout", "batch", "said"),
    [
        ({"micro_batch": 2}, 12, "layout.micro_batch=2 parts a question's 3 candidates; use a multiple of 3"),
        ({"pp": 2, "micro_batch": 4}, 24, "layout.micro_batch=4 parts a question's 3 candidates; use a multiple of 3"),
        ({"dp": 2}, 9 * 2, "9"),
        ({"dp": 2}, 8, "a replica's 4 sequences part a question's 3 candidates; use a train.batch that is a multiple "
         "of 6"),
        ({"pp": 2}, 12, "3"),
    ],
)  # fmt: skip
def test_the_candidates_of_a_question_stay_together(layout: dict[str, object], batch: int, said: str) -> None:
    sections = {"model": {"family": "bert", "head": "choice", "classes": 3}, "train": {"batch": batch}}
    processes = int(str(layout.get("dp", layout.get("pp", 1))))
    if said.isdigit():
        found = laid_out(processes, **sections, layout=layout, task="choice")  # type: ignore[arg-type]
        assert found.layout.micro_batch == int(said)
        return
    with pytest.raises(InputError) as refused:
        laid_out(processes, **sections, layout=layout, task="choice")  # type: ignore[arg-type]
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"batch": 8, "rampup": (2, 4, 16)}, "an increment of 3 or 6 would"),
        ({"batch": 8, "rampup": (7, 2, 16)}, "an increment of 1 would"),
        ({"batch": 8, "rampup": (9, 1, 16)}, "begin at 8 or less"),
    ],
)
def test_a_ramp_up_that_does_not_arrive_is_told_how_it_would(train: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as refused:
        check_schedule(Config.model_validate({"train": train}))
    assert str(refused.value).endswith(said)

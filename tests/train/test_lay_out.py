"""A layout that does not fit is refused, with what would fit."""

import pytest

from phalanx.config import Config
from phalanx.errors import InputError
from phalanx.train.lay_out import lay_out


def laid_out(processes: int, **sections: dict[str, object]) -> Config:
    small = {"vocab": 512, "layers": 4, "hidden": 32, "heads": 4}
    words = {**sections, "model": {**small, **sections.get("model", {})}, "data": {"sequence": 64}}
    return lay_out(Config.model_validate(words), processes)


@pytest.mark.parametrize(
    ("tp", "model", "said"),
    [
        (4, {"ffn": 102}, "layout.tp=4 does not divide model.ffn=102; use one of 1, 2"),
        (3, {}, "layout.tp=3 does not divide model.heads=4; use one of 1, 2, 4"),
        (4, {"vocab": 300, "pad_vocab_to": 512}, "use one of 1, 2"),
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
        with pytest.raises(InputError, match="a pipeline of 2 takes a whole number"):
            laid_out(2, train=train, layout=layout)
    else:
        assert laid_out(2, train=train, layout=layout).layout.micro_batch in (1, 2)


def test_a_ramp_up_divides_among_replicas() -> None:
    with pytest.raises(InputError, match="rampup: 6 sequences do not divide"):
        laid_out(4, train={"batch": 8, "rampup": (4, 2, 16)})

"""Kernels, links and cluster files: what they must add up to, whatever their constants."""

from dataclasses import replace
from importlib.resources import files

import pytest

from phalanx.errors import InputError
from phalanx.models.family import configured, spec_of
from phalanx.plan import cluster, kernels
from phalanx.plan.kernels import Kernel, Timer
from phalanx.plan.network import Group, send
from phalanx.plan.predict import predict
from phalanx.plan.workload import Workload
from phalanx.spec.model import Spec

LAYERS, HIDDEN, VOCAB, SEQUENCE = 24, 1024, 50304, 1024


def gpt(layers: int = LAYERS) -> Spec:
    return spec_of(configured(layers=layers, hidden=HIDDEN, heads=16, vocab=VOCAB, positions=SEQUENCE))


GPT = Workload(gpt(), SEQUENCE, batch=64, micro_batch=4, dp=8)
H100 = cluster.load("h100-eos")
TEXT = files("phalanx").joinpath("clusters/h100-eos.toml").read_text()


def multiplied(work: Workload) -> float:
    """FLOPs of a step of all GPUs, by its kernels."""
    blocks = [kernels.Block(work, block) for block in work.spec.blocks]
    every = [kernel for block in blocks for kernel in (*block.forward(), *block.backward())]
    every += [kernel for forward in (True, False) for kernel in kernels.head(work, forward)]
    return work.micro_batches * work.dp * work.cp * work.tp * sum(kernel.flops for kernel in every)


@pytest.mark.parametrize("changes", [{}, {"tp": 4}, {"tp": 4, "sequence_parallel": True}, {"attention": "plain"}])
def test_kernels_multiply_what_the_formula_says(changes: dict[str, object]) -> None:
    """72 B s l h² (1 + s/6h + V/12lh); one kernel for attention computes half of its scores again."""
    work = replace(GPT, **changes)  # type: ignore[arg-type]
    h, s, tokens = HIDDEN, SEQUENCE, work.batch * SEQUENCE
    paper = 72 * tokens * LAYERS * h**2 * (1 + s / (6 * h) + VOCAB / (12 * LAYERS * h))
    again = 2 * tokens * s * h * LAYERS if work.attention == "fused" else 0
    assert work.flops() == pytest.approx(paper, rel=1e-12)
    assert multiplied(work) == pytest.approx(paper + again, rel=1e-9)


def test_recompute_multiplies_blocks_again() -> None:
    work = replace(GPT, attention="plain", recompute="block")
    assert multiplied(work) == pytest.approx(work.flops("block"), rel=1e-9)


def test_no_kernel_is_faster_than_its_roofline() -> None:
    timer = Timer(H100, "bf16")
    product = kernels.product("matrix", 8192, 8192, 8192, 2)
    assert timer(product) > product.flops / H100.gpu.peak["bf16"]
    moved = Kernel("norm", 1e9)
    assert timer(moved) > 1e9 / H100.gpu.bandwidth
    assert timer(kernels.product("matrix", 64, 64, 8192, 2)) > timer(Kernel("matrix", 0, (64, 64, 64)))


@pytest.mark.parametrize("size", [2, 4, 8])
def test_links_inside_a_node(size: int) -> None:
    """α-β: latency, and 2 (n - 1)/n of the bytes over the bandwidth; half of both to gather or to scatter."""
    group, inside = Group(H100, size, 1), H100.inside
    latency = inside.latency + inside.hop * size
    assert group.all_reduce(0) == pytest.approx(latency)
    assert group.all_reduce(1e9) == pytest.approx(latency + 2 * (size - 1) / size * 1e9 / inside.bandwidth)
    assert 2 * group.scatter(1e9) == pytest.approx(group.all_reduce(1e9))


def test_links_between_nodes_are_shared() -> None:
    """Eight groups leave a node at once, each with an eighth of what goes out."""
    alone, together = Group(H100, 64, 1), Group(H100, 64, 8)
    assert together.nodes == 64 and together.bandwidth == pytest.approx(H100.between.bandwidth / 8)
    assert alone.all_reduce(1e9) < together.all_reduce(1e9)
    assert send(H100, 1e8, 1) < send(H100, 1e8, 8)


def test_more_to_do_takes_longer() -> None:
    base = predict(GPT, H100)
    assert predict(replace(GPT, spec=gpt(25)), H100).seconds > base.seconds
    assert predict(replace(GPT, recompute="block"), H100).seconds > base.seconds
    assert sum(base.parts.values()) == pytest.approx(base.seconds)
    assert 0 < base.mfu < 1 and base.bound in base.parts


@pytest.mark.parametrize("name", cluster.names())
def test_clusters_load(name: str) -> None:
    found = cluster.load(name)
    work = replace(GPT, dp=1, batch=4, precision=found.precision("auto"))
    assert found.title and found.gpu.memory > 1e9 and predict(work, found).seconds > 0


def test_clusters_of_the_plan_are_there() -> None:
    assert {"dgx2h-superpod", "selene", "h100-eos", "h200", "t4", "laptop"} <= set(cluster.names())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("node = [", "not TOML"),
        ("node = 8", "has no title"),
        (TEXT.replace("node = 8", "node = 0"), "node=0 will not do: .*greater than 0"),
        (TEXT.replace("units = 132", "units = 'many'"), "gpu.units='many' will not do: .*valid integer"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        cluster.parse(text, "mine.toml")
    assert str(error.value).startswith("mine.toml") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "asked", "taken"),
    [("h100-eos", "auto", "bf16"), ("h100-eos", "fp8", "fp8"), ("dgx-1", "auto", "fp32"), ("dgx-1", "fp16", "fp16")],
)
def test_precision_is_what_the_gpus_have(name: str, asked: str, taken: str) -> None:
    assert cluster.load(name).precision(asked) == taken


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [("selene", "fp8", "fp8 is not in A100.*; use bf16, fp16, fp32$"), ("dgx-1", "bf16", "use fp16, fp32$")],
)
def test_precision_that_gpus_lack_is_refused(name: str, asked: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        cluster.load(name).precision(asked)


def test_fp8_makes_the_blocks_matrices_faster_and_nothing_else() -> None:
    narrow, wide = Timer(H100, "fp8"), Timer(H100, "bf16")
    matrix = kernels.product("matrix", 8192, 8192, 8192, 2)
    assert narrow(matrix) < 0.7 * wide(matrix)
    for other in (
        matrix._replace(kind="head"),
        matrix._replace(kind="attention"),
        Kernel("flash", 1e6, (512, 512, 64)),
    ):
        assert narrow(other) == pytest.approx(wide(other), rel=0.05)


def test_an_unknown_cluster_names_those_that_are_known() -> None:
    with pytest.raises(InputError, match="selene"):
        cluster.load("nowhere")

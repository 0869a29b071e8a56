"""Every kind of decoder computes what transformers' class does: windows, scaled positions, norms of queries, keys."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from phalanx.convert.linked import imported
from phalanx.spec.links import links
from phalanx.spec.rope import Rope
from tests.batches import batch_of
from tests.decoders import KINDS, POSITIONS, VOCAB, Pair, pair_of

CLOSE = 1e-4
FAR = 16_384


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Pair:
    return pair_of(tmp_path, request.param)


def test_logits_and_gradients(pair: Pair) -> None:
    """Of texts six times as long as the window."""
    tokens = torch.randint(VOCAB, (2, POSITIONS + 1), generator=torch.Generator().manual_seed(1))
    theirs = pair.theirs(tokens[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(theirs.flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()

    batch = batch_of(tokens[:, :-1], POSITIONS)
    with torch.no_grad():
        assert (pair.ours(batch) - theirs).abs().max() < CLOSE * theirs.abs().max()
    sums = pair.ours(replace(batch, labels=tokens[:, 1:]))
    (sums["lm"] / (2 * POSITIONS)).backward()
    given = {name: parameter.grad for name, parameter in pair.theirs.named_parameters(remove_duplicate=False)}
    grads = dict(imported(links(pair.ours.spec, pair.form.names), given))
    for name, parameter in pair.ours.named_parameters():
        assert parameter.grad is not None
        assert (parameter.grad - grads[name]).abs().max() < CLOSE * grads[name].abs().max().clamp_min(1e-3), name


@pytest.mark.parametrize("kind", ["llama 3.1", "llama 3.2", "llama linear", "llama yarn", "olmo3", "gemma3"])
def test_positions_far_apart(tmp_path: Path, kind: str) -> None:
    """A few tokens at positions up to 16k, within a window that is longer where there is one: a wrong scaling, or a
    scaling of the wrong layers, shows there alone.
    """
    more = {"sliding_window": 2 * FAR} if kind in ("olmo3", "gemma3") else {}
    pair = pair_of(tmp_path, kind, max_position_embeddings=FAR, **more)
    places = torch.tensor([[0, 1, 5, 40, 300, 2_000, 4_097, 9_000, 12_345, FAR - 1]])
    tokens = torch.randint(VOCAB, places.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = pair.theirs(tokens, position_ids=places, attention_mask=torch.ones_like(tokens)).logits
        ours = pair.ours(replace(batch_of(tokens, FAR), index=places))
        near = pair.ours(batch_of(tokens, FAR))
    assert (ours - theirs).abs().max() < CLOSE * theirs.abs().max()
    assert (ours - near).abs().max() > 100 * CLOSE * theirs.abs().max()


@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("scaling", ["linear", "llama3", "yarn"])
def test_frequencies_of_published_models(scaling: str, width: int) -> None:
    """Those of Llama 3.1 and 3.2, OLMo 3 and Gemma 3, to fp32's precision."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {"rope_type": scaling, "rope_theta": 5e5, "factor": 8.0}
    bounds = {"linear": {}, "yarn": {"beta_slow": 1.0, "beta_fast": 32.0}}
    rope |= bounds.get(scaling, {"low_freq_factor": 1.0, "high_freq_factor": 4.0})
    rope |= {} if scaling == "linear" else {"original_max_position_embeddings": 8192}
    config = LlamaConfig(head_dim=width, max_position_embeddings=65_536, rope_parameters=rope)
    theirs, magnitude = ROPE_INIT_FUNCTIONS[scaling](config, torch.device("cpu"))
    low, high = (1.0, 32.0) if scaling == "yarn" else (1.0, 4.0)
    ours = Rope(5e5, width, scaling, 8.0, 8192, low, high)  # type: ignore[arg-type]
    assert torch.allclose(torch.tensor(ours.frequencies()), theirs, rtol=1e-5, atol=0)
    assert magnitude == pytest.approx(1.2079441541679836 if scaling == "yarn" else 1.0)

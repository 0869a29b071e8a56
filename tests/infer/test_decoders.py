"""Every kind of decoder writes from its cache what transformers writes, within its windows and past them."""

from pathlib import Path

import pytest
import torch

from phalanx.infer import kernels
from phalanx.infer.decoder import Decoder, enable_cache
from phalanx.infer.engine import Engine
from phalanx.infer.kv_cache import Chunk
from phalanx.infer.sample import Options
from tests.decoders import KINDS, POSITIONS, VOCAB, WINDOW, pair_of

PROMPTS = [5, 6, 7], [*range(40, 60)]  # one shorter than the window, one longer
NEW = POSITIONS - 24
PARTS = 3, 1, 1, 9, 1, 1, 1, 12, 4, 1, 1, 1  # tokens that come at once: fewer than the window has, and more


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_it_writes(tmp_path: Path, kind: str) -> None:
    """Two texts at once, one of which begins where the other has gone on; and scores of tokens that come in parts. The
    kernels say that they do not know such a model.
    """
    pair = pair_of(tmp_path, kind)
    greedy = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    expected = [pair.theirs.generate(torch.tensor([prompt]), **greedy)[0].tolist() for prompt in PROMPTS]
    assert NEW > 2 * WINDOW

    cache = enable_cache(pair.ours, 1 << 20)
    for kept in (*cache.keys, *cache.values):
        kept.fill_(torch.nan)  # what is not written is not read
    decoder = Decoder(pair.ours, VOCAB, cache)
    engine = Engine(decoder, POSITIONS, ())
    first = engine.submit(PROMPTS[0], Options(NEW, 0))
    for _ in range(3):
        engine.step()
    second = engine.submit(PROMPTS[1], Options(NEW, 0))
    while engine.busy:
        engine.step()
    assert [first.tokens, second.tokens] == expected

    tokens = torch.randint(VOCAB, (sum(PARTS),), generator=torch.Generator().manual_seed(1))
    theirs, pages, start = pair.theirs(tokens[None]).logits[0], decoder.reserve(len(tokens)), 0
    assert pages is not None
    for part in PARTS:
        chunk = Chunk(pages, start, tokens[start : start + part].tolist(), wanted=part)
        (scores,) = decoder([chunk])
        assert (scores - theirs[start : start + part]).abs().max() < 1e-4 * theirs.abs().max(), start
        start += part
    assert "this one is another" in kernels.unavailable(pair.ours.spec, "fp32")

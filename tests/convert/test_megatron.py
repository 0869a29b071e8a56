"""Megatron-LM's files, written here from the format's description alone, give the logits of what they are made of."""

import argparse
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, MegatronBertConfig, MegatronBertForPreTraining
from typer.testing import CliRunner

from phalanx.cli.app import app
from phalanx.convert.megatron import export_run, import_folder
from phalanx.errors import InputError
from phalanx.infer.bundle import load_bundle
from tests.batches import batch_of
from tests.convert.folders import PIECES, config_of, tokenizer_of
from tests.infer.runs import make_run

LAYERS, HIDDEN, HEADS, POSITIONS = 2, 32, 4, 16
WIDTH = HIDDEN // HEADS
VOCABS = {"gpt2": 27, "bert": len(PIECES)}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The file of each family's tokenizer."""
    files = {kind: tmp_path_factory.mktemp("tokenizers") / f"{kind}.json" for kind in VOCABS}
    for kind, file in files.items():
        tokenizer_of(kind).save(file)
    return {kind: str(file) for kind, file in files.items()}


def theirs(kind: str) -> Any:
    """A random model of transformers, every bias and norm random too."""
    torch.manual_seed(2)
    model: Any
    if kind == "gpt2":
        config = GPT2Config(vocab_size=VOCABS[kind], n_positions=POSITIONS, n_embd=HIDDEN, n_layer=LAYERS, n_head=HEADS)
        model = GPT2LMHeadModel(config)
    else:
        model = MegatronBertForPreTraining(
            MegatronBertConfig(
                vocab_size=VOCABS[kind], hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
                intermediate_size=4 * HIDDEN, max_position_embeddings=POSITIONS, layer_norm_eps=1e-5,
                hidden_act="gelu_new",
            )
        )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def plain(kind: str, model: Any) -> tuple[dict[str, Tensor], list[dict[str, Tensor]], dict[str, Tensor]]:
    """Embeddings and heads, blocks with query, key and value apart, the final norm: by neutral names."""
    s = model.state_dict()
    if kind == "gpt2":
        blocks = []
        for i in range(LAYERS):
            at = f"transformer.h.{i}."
            q, k, v = s[f"{at}attn.c_attn.weight"].t().chunk(3)
            qb, kb, vb = s[f"{at}attn.c_attn.bias"].chunk(3)
            blocks.append({
                "q": q, "k": k, "v": v, "qb": qb, "kb": kb, "vb": vb,
                "norm1": s[f"{at}ln_1.weight"], "norm1b": s[f"{at}ln_1.bias"],
                "norm2": s[f"{at}ln_2.weight"], "norm2b": s[f"{at}ln_2.bias"],
                "out": s[f"{at}attn.c_proj.weight"].t(), "outb": s[f"{at}attn.c_proj.bias"],
                "up": s[f"{at}mlp.c_fc.weight"].t(), "upb": s[f"{at}mlp.c_fc.bias"],
                "down": s[f"{at}mlp.c_proj.weight"].t(), "downb": s[f"{at}mlp.c_proj.bias"],
            })  # fmt: skip
        return (
            {"word": s["transformer.wte.weight"], "position": s["transformer.wpe.weight"]},
            blocks,
            {"weight": s["transformer.ln_f.weight"], "bias": s["transformer.ln_f.bias"]},
        )
    blocks = []
    for i in range(LAYERS):
        at = f"bert.encoder.layer.{i}."
        own = f"{at}attention.self."
        blocks.append({
            "q": s[f"{own}query.weight"], "k": s[f"{own}key.weight"], "v": s[f"{own}value.weight"],
            "qb": s[f"{own}query.bias"], "kb": s[f"{own}key.bias"], "vb": s[f"{own}value.bias"],
            "norm1": s[f"{at}attention.ln.weight"], "norm1b": s[f"{at}attention.ln.bias"],
            "norm2": s[f"{at}ln.weight"], "norm2b": s[f"{at}ln.bias"],
            "out": s[f"{at}attention.output.dense.weight"], "outb": s[f"{at}attention.output.dense.bias"],
            "up": s[f"{at}intermediate.dense.weight"], "upb": s[f"{at}intermediate.dense.bias"],
            "down": s[f"{at}output.dense.weight"], "downb": s[f"{at}output.dense.bias"],
        })  # fmt: skip
    return (
        {
            "word": s["bert.embeddings.word_embeddings.weight"],
            "position": s["bert.embeddings.position_embeddings.weight"],
            "segment": s["bert.embeddings.token_type_embeddings.weight"],
        },
        blocks,
        {"weight": s["bert.encoder.ln.weight"], "bias": s["bert.encoder.ln.bias"]},
    )


def mixed(q: Tensor, k: Tensor, v: Tensor, version: float, rank: int, tp: int) -> Tensor:
    """A rank's rows of query_key_value: of its heads, in the order of the version."""
    heads = HEADS // tp
    rows = slice(rank * heads * WIDTH, (rank + 1) * heads * WIDTH)
    mine = [part[rows] for part in (q, k, v)]
    if version == 0:
        return torch.cat(mine)
    out = []
    for head in range(heads):
        one = [part[head * WIDTH : (head + 1) * WIDTH] for part in mine]
        if version == 1:
            out += [part[i : i + 1] for i in range(WIDTH) for part in one]
        else:
            out += one
    return torch.cat(out)


def write(folder: Path, kind: str, model: Any, version: float, tp: int, extra: dict[str, Any] | None = None) -> None:
    """The checkpoint of iteration 7."""
    embeddings, blocks, final = plain(kind, model)
    rows = -(-VOCABS[kind] // (128 * tp)) * 128 * tp
    word = torch.cat([embeddings["word"], torch.randn(rows - VOCABS[kind], HIDDEN)])
    for rank in range(tp):
        transformer = {"final_layernorm.weight": final["weight"], "final_layernorm.bias": final["bias"]}
        attention = "self_attention" if version > 2 else "attention"
        for i, b in enumerate(blocks):
            at = f"layers.{i}."
            transformer |= {
                f"{at}input_layernorm.weight": b["norm1"], f"{at}input_layernorm.bias": b["norm1b"],
                f"{at}{attention}.query_key_value.weight": mixed(b["q"], b["k"], b["v"], version, rank, tp),
                f"{at}{attention}.query_key_value.bias": mixed(b["qb"], b["kb"], b["vb"], version, rank, tp),
                f"{at}{attention}.dense.weight": b["out"].chunk(tp, 1)[rank], f"{at}{attention}.dense.bias": b["outb"],
                f"{at}post_attention_layernorm.weight": b["norm2"], f"{at}post_attention_layernorm.bias": b["norm2b"],
                f"{at}mlp.dense_h_to_4h.weight": b["up"].chunk(tp)[rank],
                f"{at}mlp.dense_h_to_4h.bias": b["upb"].chunk(tp)[rank],
                f"{at}mlp.dense_4h_to_h.weight": b["down"].chunk(tp, 1)[rank],
                f"{at}mlp.dense_4h_to_h.bias": b["downb"],
            }  # fmt: skip
        embedding = {
            "word_embeddings": {"weight": word.chunk(tp)[rank]},
            "position_embeddings": {"weight": embeddings["position"]},
        }
        language: dict[str, Any] = {"embedding": embedding, "encoder" if version > 2 else "transformer": transformer}
        parts: dict[str, Any] = {"language_model": language}
        if kind == "bert":
            s = model.state_dict()
            embedding["tokentype_embeddings"] = {"weight": embeddings["segment"]}
            language["pooler"] = {f"dense.{k}": s[f"bert.pooler.dense.{k}"] for k in ("weight", "bias")}
            bias = torch.cat([s["cls.predictions.bias"], torch.zeros(rows - VOCABS[kind])])
            head = "cls.predictions.transform."
            parts["lm_head"] = {
                "bias": bias.chunk(tp)[rank],
                **{f"dense.{k}": s[f"{head}dense.{k}"] for k in ("weight", "bias")},
                **{f"layernorm.{k}": s[f"{head}LayerNorm.{k}"] for k in ("weight", "bias")},
            }
            parts["binary_head"] = {k: s[f"cls.seq_relationship.{k}"] for k in ("weight", "bias")}
        args = argparse.Namespace(
            num_layers=LAYERS, hidden_size=HIDDEN, num_attention_heads=HEADS, bias_gelu_fusion=True,
            layernorm_epsilon=1e-5,
        )  # fmt: skip
        content = {"args": args, "iteration": 7, "model": parts, **(extra or {})}
        if version:
            content["checkpoint_version"] = version
        file = folder / "iter_0000007" / f"mp_rank_{rank:02d}" / "model_optim_rng.pt"
        file.parent.mkdir(parents=True)
        copied = pickle.loads(pickle.dumps(content))  # views of one tensor become tensors of their own
        torch.save(copied, file)
    (folder / "latest_checkpointed_iteration.txt").write_text("7")


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
@pytest.mark.parametrize(("version", "tp"), [(0, 1), (0, 2), (1, 1), (1, 2), (2.0, 1), (3.0, 1), (3.0, 4)])
@torch.no_grad()
def test_logits_are_those_of_the_model(
    tmp_path: Path, tokenizers: dict[str, str], kind: str, version: float, tp: int
) -> None:
    model = theirs(kind)
    write(tmp_path / "megatron", kind, model, version, tp)
    told = import_folder(tmp_path / "megatron", tokenizers[kind], tmp_path / "run")
    assert not told.missing and not told.unused
    ours = load_bundle(tmp_path / "run").model
    tokens = torch.randint(VOCABS[kind], (2, POSITIONS))
    segment = torch.zeros_like(tokens) if kind == "bert" else None
    answer = model(tokens)
    expected = answer.logits if kind == "gpt2" else answer.prediction_logits
    logits = ours(batch_of(tokens, POSITIONS, segment=segment))
    torch.testing.assert_close(logits[..., : VOCABS[kind]], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
@pytest.mark.parametrize("tp", [1, 2])
def test_there_and_back_is_bit_equal(tmp_path: Path, tokenizers: dict[str, str], kind: str, tp: int) -> None:
    write(tmp_path / "megatron", kind, theirs(kind), 3.0, 1)
    import_folder(tmp_path / "megatron", tokenizers[kind], tmp_path / "run")
    assert export_run(tmp_path / "run", tmp_path / "out", tp) == tp
    import_folder(tmp_path / "out", tokenizers[kind], tmp_path / "again")
    one, two = (load_bundle(tmp_path / name).model.state_dict() for name in ("run", "again"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_random_states_are_read_over(tmp_path: Path, tokenizers: dict[str, str]) -> None:
    """Its files hold Python's and numpy's generators beside the weights."""
    extra = {"random_rng_state": random.getstate(), "np_rng_state": np.random.get_state(), "rng": torch.get_rng_state()}
    write(tmp_path / "megatron", "gpt2", theirs("gpt2"), 3.0, 1, extra)
    assert not import_folder(tmp_path / "megatron", tokenizers["gpt2"], tmp_path / "run").missing


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle's code ran",))


def spoil(folder: Path, how: str) -> None:
    file = folder / "iter_0000007" / "mp_rank_00" / "model_optim_rng.pt"
    if how == "code":
        file.write_bytes(pickle.dumps({"model": Code()}))
    elif how == "cut off":
        file.write_bytes(file.read_bytes()[:5000])
    elif how == "a rank is gone":
        file.unlink()
    elif how == "pipelines":
        file.parent.rename(file.parent.with_name("mp_rank_00_001"))
    elif how == "nothing":
        (folder / "latest_checkpointed_iteration.txt").unlink()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("code", "may be code"),
        ("cut off", "cannot be read"),
        ("a rank is gone", "holds no model_optim_rng.pt"),
        ("pipelines", "pipelines and gaps are not read"),
        ("nothing", "no checkpoint of Megatron-LM"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, tokenizers: dict[str, str], how: str, said: str) -> None:
    folder = tmp_path / "megatron"
    write(folder, "gpt2", theirs("gpt2"), 3.0, 1)
    spoil(folder, how)
    with pytest.raises(InputError, match=said) as error:
        import_folder(folder, tokenizers["gpt2"], tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run" / "config.toml").exists()


@pytest.mark.parametrize(("other", "said"), [({}, "a head"), ({"head": "", "segments": 3}, "model.segments=3")])
def test_what_it_has_not_is_refused(
    tmp_path: Path, tokenizers: dict[str, str], other: dict[str, Any], said: str
) -> None:
    model = config_of("bert").model.model_copy(update={"norm_first": True, **other})
    make_run(tmp_path / "run", config_of("bert").model_copy(update={"model": model}), tokenizers["bert"])
    with pytest.raises(InputError, match=said):
        export_run(tmp_path / "run", tmp_path / "out")


@pytest.mark.parametrize("kind", ["roberta", "distilbert"])
def test_encoders_of_other_families_are_refused(tmp_path: Path, kind: str) -> None:
    """Their blocks would go there, their heads and positions not."""
    config = config_of(kind)
    tokenizer_of(kind).save(tmp_path / "letters.json")
    model = config.model.model_copy(update={"norm_first": True})
    make_run(tmp_path / "run", config.model_copy(update={"model": model}), str(tmp_path / "letters.json"))
    with pytest.raises(InputError, match=r"Megatron-LM has pre-LN GPT-2 and BERT .* and no others"):
        export_run(tmp_path / "run", tmp_path / "out")


@pytest.mark.parametrize("named", ["gpt2", "bert"])
def test_a_tokenizer_of_another_size_is_refused(tmp_path: Path, tokenizers: dict[str, str], named: str) -> None:
    """Too few tokens for the rows, or too many."""
    rows = 100_000 if named == "bert" else 20
    write(tmp_path / "megatron", "gpt2", theirs("gpt2"), 3.0, 1)
    file = tmp_path / "megatron" / "iter_0000007" / "mp_rank_00" / "model_optim_rng.pt"
    with torch.serialization.safe_globals([argparse.Namespace]):
        found = torch.load(file)
    found["model"]["language_model"]["embedding"]["word_embeddings"]["weight"] = torch.zeros(rows, HIDDEN)
    torch.save(found, file)
    with pytest.raises(InputError, match=f"has {rows} rows, the tokenizer .* name its own"):
        import_folder(tmp_path / "megatron", tokenizers[named], tmp_path / "run")


def test_the_verbs(tmp_path: Path, tokenizers: dict[str, str]) -> None:
    write(tmp_path / "megatron", "gpt2", theirs("gpt2"), 1, 2)
    words = ["import", f"megatron:{tmp_path / 'megatron'}", "--out", str(tmp_path / "run")]
    assert "--tokenizer" in str(CliRunner().invoke(app, words).exception)
    assert CliRunner().invoke(app, [*words, "--tokenizer", tokenizers["gpt2"]]).exit_code == 0
    told = CliRunner().invoke(
        app, ["export", str(tmp_path / "run"), str(tmp_path / "o"), "--to", "megatron", "--tp", "2"]
    )
    assert told.exit_code == 0 and len(list((tmp_path / "o" / "release").iterdir())) == 2
    refused = CliRunner().invoke(
        app, ["export", str(tmp_path / "run"), str(tmp_path / "p"), "--to", "megatron", "--tp", "3"]
    )
    assert isinstance(refused.exception, InputError) and "--tp 3" in str(refused.exception)

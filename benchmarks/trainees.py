"""Models of one size that train: ours, Hugging Face's and a short script's, each with a closure of its mean loss; and
the batch that all of them get.
"""

from collections.abc import Callable
from typing import Any, NamedTuple


class Shape(NamedTuple):
    """Sizes of a model and its batch."""

    family: str
    layers: int
    hidden: int
    heads: int
    vocab: int
    sequence: int
    batch: int
    ragged: bool = False  # rows of all lengths up to the sequence, so that about half is padding

    @property
    def lengths(self) -> list[int]:
        """Of the rows, in tokens."""
        if not self.ragged:
            return [self.sequence] * self.batch
        return [self.sequence * (row + 1) // self.batch for row in range(self.batch)]


SHAPES = {
    "tiny": Shape("gpt2", 2, 128, 2, 1024, 128, 8),
    "small": Shape("gpt2", 6, 384, 6, 8192, 256, 16),
    "gpt2": Shape("gpt2", 12, 768, 12, 50304, 1024, 2),
    "gpt2-355m": Shape("gpt2", 24, 1024, 16, 50304, 1024, 16),
    "gpt2-1.2b": Shape("gpt2", 40, 1536, 16, 50304, 1024, 16),
    "bert-base-128": Shape("bert", 12, 768, 12, 30592, 128, 16),
    "bert-large-128": Shape("bert", 24, 1024, 16, 30592, 128, 8),
    "bert-large-512": Shape("bert", 24, 1024, 16, 30592, 512, 2),
    "bert-large-128-gpu": Shape("bert", 24, 1024, 16, 30592, 128, 128),
    "bert-large-512-gpu": Shape("bert", 24, 1024, 16, 30592, 512, 32),
    "bert-base-128-ragged": Shape("bert", 12, 768, 12, 30592, 128, 16, ragged=True),
    "bert-large-128-ragged-gpu": Shape("bert", 24, 1024, 16, 30592, 128, 256, ragged=True),
    "bert-large-512-ragged-gpu": Shape("bert", 24, 1024, 16, 30592, 512, 64, ragged=True),
}

Loss = Callable[[], Any]


def phalanx(shape: Shape, dtype: str, compiled: bool, data: dict[str, Any]) -> tuple[Any, Loss]:
    """Our model and a closure that computes its mean loss."""
    import torch

    from phalanx.config import ModelConfig
    from phalanx.models.build import build
    from phalanx.models.family import configured, family
    from phalanx.nn.batch import Batch
    from phalanx.nn.packed import enable_packing
    from phalanx.precision import gemm
    from phalanx.train.prepare import compile_parts

    form = {"gpt2": "124m", "bert": "base"}[shape.family]
    sizes = shape._asdict() | {"positions": shape.sequence, "dropout": 0.0}
    preset = family(shape.family).PRESETS[form]
    config = configured(
        **{"family": shape.family, **preset, **{k: v for k, v in sizes.items() if k in ModelConfig.model_fields}}
    )
    device = data["tokens"].device
    model = build(config, 1, device)
    gemm.fill(model, dtype, device)
    packs = shape.ragged and (device.type == "cuda" or not compiled)  # as runs do
    if packs:
        enable_packing(model, kernel=device.type == "cuda" and dtype != "fp32")
    if compiled:
        compile_parts(model, lengths_vary=packs)
    rows, length = data["tokens"].shape
    index = torch.arange(rows * length, device=device).view(rows, length)
    key = torch.ones(rows, dtype=torch.int32, device=device)
    given = {name: data.get(name) for name in ("segment", "document", "related")}
    batch = Batch(data["tokens"], index, key, data["labels"], **given)
    counts = {"lm": (data["labels"] >= 0).sum(), "mlm": (data["labels"] >= 0).sum(), "nsp": rows}

    def loss() -> Any:
        return sum(value / counts[name] for name, value in model(batch).items() if name in counts)

    return model, loss


def hugging_face(shape: Shape, dtype: str, compiled: bool, data: dict[str, Any]) -> tuple[Any, Loss]:
    """The same model from transformers, its loss as its own forward gives it."""
    import torch
    import transformers

    if shape.family == "gpt2":
        options: Any = transformers.GPT2Config(
            vocab_size=shape.vocab, n_positions=shape.sequence, n_embd=shape.hidden, n_layer=shape.layers,
            n_head=shape.heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )  # fmt: skip
        model: Any = transformers.GPT2LMHeadModel(options)
    else:
        options = transformers.BertConfig(
            vocab_size=shape.vocab, hidden_size=shape.hidden, num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads, intermediate_size=4 * shape.hidden, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        model = transformers.BertForPreTraining(options)
    device = data["tokens"].device
    model, call = model.to(device), model
    if compiled and device.type == "cuda":
        for block in model.transformer.h if shape.family == "gpt2" else model.bert.encoder.layer:
            block.compile(dynamic=False)
    elif compiled:
        call = torch.compile(model)
    inputs = {"input_ids": data["tokens"], "labels": torch.where(data["labels"] >= 0, data["labels"], -100)}
    if shape.family == "gpt2":
        inputs["labels"] = data["tokens"]  # this model shifts its labels itself
    else:
        inputs |= {"token_type_ids": data["segment"], "next_sentence_label": data["related"]}
    if "document" in data:
        inputs["attention_mask"] = (data["document"] >= 0).long()

    def loss() -> Any:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16"):
            return call(**inputs).loss

    return model, loss


def script(shape: Shape, dtype: str, compiled: bool, data: dict[str, Any]) -> tuple[Any, Loss]:
    """A short script's GPT-2."""
    import torch

    from benchmarks.plain_gpt import PlainGPT

    device = data["tokens"].device
    model = PlainGPT(shape.layers, shape.hidden, shape.heads, shape.vocab, shape.sequence).to(device)
    if compiled:
        for layer in model.layers:
            layer.compile(dynamic=False)

    def loss() -> Any:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16"):
            return model(data["tokens"], data["labels"])

    return model, loss


def synthetic(shape: Shape) -> dict[str, Any]:
    """Random tokens; for BERT 15 % of them are to be predicted."""
    import torch

    torch.manual_seed(0)
    tokens = torch.randint(shape.vocab, (shape.batch, shape.sequence))
    if shape.family == "gpt2":
        return {"tokens": tokens, "labels": tokens.roll(-1, 1)}
    chosen = torch.rand(tokens.shape) < 0.15
    half = (torch.arange(shape.sequence) >= shape.sequence // 2).long().expand_as(tokens).contiguous()
    related = torch.randint(2, (shape.batch,))
    data = {"tokens": tokens, "labels": torch.where(chosen, tokens, -1), "segment": half, "related": related}
    if shape.ragged:
        outside = torch.arange(shape.sequence) >= torch.tensor(shape.lengths)[:, None]
        data |= {"document": -outside.int(), "labels": data["labels"].masked_fill(outside, -1)}
    return data

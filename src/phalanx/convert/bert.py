"""BERT's weights from and to Hugging Face's names."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from phalanx.config import ModelConfig
from phalanx.convert import names
from phalanx.nn.answer import POOLED

BESIDE = ("cls.", "classifier.", "qa_outputs.")  # what stands beside the encoder, not in it

_PRETRAINING = {
    "masked.transform": "cls.predictions.transform.dense",
    "masked.norm": "cls.predictions.transform.LayerNorm",
    "pair.pooler": "pooler.dense",
    "pair.classifier": "cls.seq_relationship",
}


def from_hugging_face(state: Mapping[str, Tensor], config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """This model's weights from those of Hugging Face's class for its heads (Bert… or, of a pre-LN model,
    MegatronBert…); of heads that are not there, none."""
    at = "bert." if "bert.embeddings.word_embeddings.weight" in state else ""
    token = "transformer.embeddings.token.weight"
    for ours, theirs in outside_blocks(config).items():
        theirs = theirs if theirs.startswith(BESIDE) else at + theirs
        if theirs in state or ours.startswith("transformer."):
            tensor = state[theirs]
            yield ours, names.pad_rows(tensor, config) if ours == token else tensor
    for layer in range(config.layers):
        ours, theirs = f"transformer.blocks.{layer}.", f"{at}encoder.layer.{layer}."
        for kind in ("weight", "bias"):
            qkv = [state[f"{theirs}attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            yield f"{ours}attention.qkv.{kind}", names.join_heads(torch.cat(qkv), config.heads)
            for here, there in _block(config).items():
                yield f"{ours}{here}.{kind}", state[f"{theirs}{there}.{kind}"]


def to_hugging_face(state: Mapping[str, Tensor], config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """The inverse of `from_hugging_face`; a decoder is the embedding, whose padding rows are dropped."""
    for ours, theirs in outside_blocks(config).items():
        if ours in state:
            tensor = state[ours]
            rows = config.vocab if ours == "transformer.embeddings.token.weight" else len(tensor)
            yield theirs if theirs.startswith(BESIDE) else f"bert.{theirs}", tensor[:rows]
    for layer in range(config.layers):
        ours, theirs = f"transformer.blocks.{layer}.", f"bert.encoder.layer.{layer}."
        for kind in ("weight", "bias"):
            qkv = names.split_heads(state[f"{ours}attention.qkv.{kind}"], config.heads)
            for part, tensor in zip(("query", "key", "value"), qkv, strict=True):
                yield f"{theirs}attention.self.{part}.{kind}", tensor.contiguous()
            for here, there in _block(config).items():
                yield f"{theirs}{there}.{kind}", state[f"{ours}{here}.{kind}"]


def _block(config: ModelConfig) -> dict[str, str]:
    """Names, here and there, of what is in a block; a pre-LN one has its norms beside the layers that they precede."""
    norms = ("attention.ln", "ln") if config.norm_first else ("attention.output.LayerNorm", "output.LayerNorm")
    return {
        "attention.out": "attention.output.dense",
        "norm1": norms[0],
        "feed_forward.up": "intermediate.dense",
        "feed_forward.down": "output.dense",
        "norm2": norms[1],
    }


def outside_blocks(config: ModelConfig) -> dict[str, str]:
    """Names, here and there, of weights that are not in a block.

    A post-LN BERT has a norm after its embeddings; a pre-LN one, which is MegatronBert there, has it after its blocks.
    """
    heads = _PRETRAINING
    if config.head:
        heads = {"answer.classifier": "qa_outputs" if config.head == "span" else "classifier"}
        heads |= {"answer.pooler": "pooler.dense"} if config.head in POOLED else {}
    norm = {"transformer.embeddings.norm": "embeddings.LayerNorm"}
    if config.norm_first:
        norm = {"transformer.norm": "encoder.ln"}
    twice = {f"{a}.{kind}": f"{b}.{kind}" for a, b in (norm | heads).items() for kind in ("weight", "bias")}
    bias = {} if config.head else {"masked.decoder.bias": "cls.predictions.bias"}
    return (
        twice
        | bias
        | {
            "transformer.embeddings.token.weight": "embeddings.word_embeddings.weight",
            "transformer.embeddings.position.weight": "embeddings.position_embeddings.weight",
            "transformer.embeddings.segment.weight": "embeddings.token_type_embeddings.weight",
        }
    )

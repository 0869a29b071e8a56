"""BERT: bidirectional, with its heads of pretraining or one to be fine-tuned; from and to Hugging Face's names."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from phalanx.config import ModelConfig
from phalanx.models import names, sizes
from phalanx.nn import loss
from phalanx.nn.answer import POOLED, AnswerHead
from phalanx.nn.batch import Batch
from phalanx.nn.heads import MaskedHead, PairHead
from phalanx.nn.transformer import Transformer


class Bert(sizes.Bert, nn.Module):
    """Bidirectional transformer with a masked-language-model head and a next-sentence head, or, to be fine-tuned, with
    the one head that `model.head` names."""

    LOSSES = ("mlm", "nsp")

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.transformer = Transformer(config, causal=False)
        self.masked: MaskedHead | None = None
        self.pair: PairHead | None = None
        self.answer: AnswerHead | None = None
        hidden, std = config.hidden, config.init_std
        if config.head:
            site = 3 * config.layers + 1
            self.answer = AnswerHead(config.head, hidden, config.classes, config.dropout, std, site)
        else:
            self.masked = MaskedHead(hidden, config.vocab, config.norm_eps, std, config.gelu)
            self.pair = PairHead(hidden, std)

    def forward(self, batch: Batch, x: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Vocabulary logits [batch, seq, vocab], or with labels the sums mlm, mlm_correct, nsp, nsp_correct. With a
        head to be fine-tuned: what `AnswerHead` gives, without labels or with them.
        """
        hidden: Tensor = self.transformer(batch, x)
        if self.answer is not None:
            return self.answer(hidden, batch) if batch.labels is None else self.answer.sums(hidden, batch)
        if self.masked is None or self.pair is None:  # a pipeline's stage before the last
            return hidden
        weight = self.transformer.words
        if batch.labels is None:
            logits: Tensor = self.masked(hidden, weight)
            return logits
        sums = self.masked.sums("mlm", hidden, weight, batch.labels)
        if batch.related is not None:
            answer = self.pair(hidden)
            sums["nsp"] = loss.cross_entropy(answer, batch.related)
            sums["nsp_correct"] = (answer.argmax(-1) == batch.related).sum()
        return sums

    @staticmethod
    def parameters_of(config: ModelConfig) -> int:
        """Weights by the closed form, both heads included, checked against built models in the tests."""
        layers, hidden, ffn = config.layers, config.hidden, config.ffn or 4 * config.hidden
        block = 4 * hidden * hidden + 2 * hidden * ffn + 9 * hidden + ffn
        embeddings = (config.vocab + config.positions + config.segments + 2) * hidden
        pooler = hidden * hidden + hidden
        heads = hidden * hidden + 3 * hidden + config.vocab + pooler + 2 * hidden + 2
        if config.head:
            width = {"span": 2, "value": 1, "choice": 1}.get(config.head, config.classes)
            heads = pooler * (config.head in POOLED) + width * (hidden + 1)
        return layers * block + embeddings + heads

    @staticmethod
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

    @staticmethod
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


BESIDE = ("cls.", "classifier.", "qa_outputs.")  # what stands beside the encoder, not in it

_PRETRAINING = {
    "masked.transform": "cls.predictions.transform.dense",
    "masked.norm": "cls.predictions.transform.LayerNorm",
    "pair.pooler": "pooler.dense",
    "pair.classifier": "cls.seq_relationship",
}


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

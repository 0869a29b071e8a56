"""An encoder on a GPU: packed batches are CUDA graphs, one for each number of tokens and of sequences, rounded up."""

import torch
from torch import Tensor

from phalanx.data.source import Array
from phalanx.infer.cuda_graphs import GraphCache, GraphedFunction, compile_blocks, power_of_two, round_up
from phalanx.infer.encoder import Encoder
from phalanx.nn.packed import PackedBatch, enable_packing

STEP = 32  # tokens to which a batch is rounded up at least


class GraphedEncoder:
    """A program as `Encoder` is one, whose graphs are made when they are wanted; attention is by `attend_varlen`."""

    def __init__(self, encoder: Encoder, context: int, device: torch.device) -> None:
        """`context` is the tokens of a sequence at most."""
        self.encoder, self.context, self.device = encoder, context, device
        enable_packing(encoder.model, kernel=True)
        compile_blocks(encoder.model, device)
        self.graphs = GraphCache()

    def __call__(self, rows: PackedBatch) -> Array:
        """Return float32 [tokens, …], or [sequences, …]."""
        used, count = rows.batch.tokens.shape[1], len(rows.cu_seqlens) - 1
        tokens, sequences = round_up(used, STEP), power_of_two(count)

        def made() -> GraphedFunction:
            return GraphedFunction(lambda given: self._compute(given, tokens), 3 * tokens + sequences + 1, self.device)

        graph = self.graphs.of((tokens, sequences), made)
        batch, ends = graph.numbers[: 3 * tokens].reshape(3, tokens), graph.numbers[3 * tokens :]
        for part, given in zip(batch, (rows.batch.tokens, rows.batch.index, rows.batch.segment), strict=True):
            part[:used], part[used:] = given, 0
        ends[: count + 1], ends[count + 1 :] = rows.cu_seqlens, used

        answers: Array = graph()[: used if self.encoder.per_token else count].cpu().numpy()
        return answers

    def _compute(self, given: Tensor, tokens: int) -> Tensor:
        ids, index, segment = given[: 3 * tokens].view(3, tokens)
        ends = given[3 * tokens :].clone()
        return self.encoder.encode(PackedBatch.of(ids, index, ends, min(tokens, self.context), segment))

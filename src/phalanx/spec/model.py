"""The parts of a model's description: layers, blocks, embeddings, heads, and the model itself.

Modules are built by walking this tree; shards, memory, FLOPs and messages are sums over it; a converter is a table over
it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from phalanx.spec.leaves import Dim, Fused, Leaf, Matrix, Norm, Parameter, Table
from phalanx.spec.parts import Costs, Layer, Part, Saved
from phalanx.spec.rope import Rope

WORDS = "transformer.embeddings.token.weight"  # the parameter that a tied head multiplies by

Activation = Literal["gelu", "gelu_tanh", "silu"]  # gelu is the exact one, by the error function


@dataclass(frozen=True)
class Attention(Layer):
    """Softmax attention with grouped queries (arXiv 2305.13245).

    The rows of `qkv` are ordered by group: the heads / kv_heads queries of a group, then the key and the value that
    they share, so that a slice of whole groups is one slice of the matrix. With as many key heads as heads, q, k and v
    of each head lie together. When there are more tensor-parallel ranks than groups, each rank has some queries of a
    group and a copy of its key and value.

    Queries and keys may be normed before they are rotated (`normed`): each head for itself ("head"), or all heads of a
    token together ("width", OLMo 2). With a `window` a query sees only keys whose distance is less than that.
    """

    hidden: int
    heads: int
    kv_heads: int
    width: int  # of a head
    causal: bool
    bias: tuple[bool, bool] = (True, True)  # whether qkv, and out, have one
    rope: Rope | None = None
    drop: float = 0.0  # dropout of the probabilities
    stds: tuple[float, float] = (0.02, 0.02)  # of the initial weights of qkv and out
    window: int = 0  # 0: all keys are seen
    scale: float = 0.0  # of the scores; 0: 1 / sqrt(width)
    normed: Literal["", "head", "width"] = ""
    norm_eps: float = 1e-6  # of the norms of queries and keys, which are rms norms
    unit_offset: bool = False  # of these norms

    @property
    def kind(self) -> tuple[Rope | None, int]:
        """Rotary positions and window: layers with the same have the same angles and the same mask."""
        return self.rope, self.window

    def parts(self) -> Iterator[tuple[str, Part | Leaf]]:
        """Yield qkv and out."""
        group = self.heads // self.kv_heads
        fused = (
            Fused("q", group * self.width, pieces=group),
            Fused("k", self.width, shared=True),
            Fused("v", self.width, shared=True),
        )
        embed = Dim("embed", self.hidden)
        rows = Dim("heads", self.kv_heads * (group + 2) * self.width, self.kv_heads, fused=fused)
        columns = Dim("heads", self.heads * self.width, self.heads)

        yield "qkv", Matrix(embed, rows, self.bias[0], self.stds[0])
        yield "out", Matrix(columns, embed, self.bias[1], self.stds[1])
        if self.normed:
            keys = Dim("heads", self.kv_heads * self.width, self.kv_heads, fused=fused[1:2])
            each = Dim("head", self.width)
            for name, dim in (("q_norm", columns), ("k_norm", keys)):
                over = each if self.normed == "head" else dim
                yield name, Norm(over, self.norm_eps, "rms", unit_offset=self.unit_offset)

    def costs(self) -> Costs:
        """Return its costs. Kept are what qkv reads; queries and keys before their norms; queries, keys and values; and
        what attention gives.
        """
        queries, keys = self.heads * self.width, self.kv_heads * self.width
        saved = [Saved(self.hidden, "all"), Saved(2 * (queries + keys), "split")]
        if self.normed:
            saved.append(Saved(queries + keys, "split", wide=True))
        return Costs(self.hidden, tuple(saved), scored=2 * queries, cached=2 * keys)


@dataclass(frozen=True)
class MLP(Layer):
    """A feed-forward layer: down(act(up x)), or gated (arXiv 2002.05202): down(act(gate x) * up x).

    A gated layer's gate and up are one matrix, [gate; up], named "up".
    """

    hidden: int
    width: int
    activation: Activation
    gated: bool = False
    bias: bool = True
    stds: tuple[float, float] = (0.02, 0.02)  # of the initial weights of up and down

    def parts(self) -> Iterator[tuple[str, Part | Leaf]]:
        """Yield up and down."""
        embed, inner = Dim("embed", self.hidden), Dim("mlp", self.width)
        outputs = inner
        if self.gated:
            outputs = Dim("mlp", 2 * self.width, 1, fused=(Fused("gate", self.width), Fused("up", self.width)))

        yield "up", Matrix(embed, outputs, self.bias, self.stds[0])
        yield "down", Matrix(inner, embed, self.bias, self.stds[1])

    def costs(self) -> Costs:
        """Return its costs. Kept are what up reads, both sides of the activation, and where that meets a gate both
        factors and their product.
        """
        inner = (4 if self.gated else 2) * self.width
        return Costs(self.hidden, (Saved(self.hidden, "all"), Saved(inner, "split")))


@dataclass(frozen=True)
class Block(Part):
    """Two layers on the residual stream: x + branch(layer(norm(x))), or norm(x + layer(x)) unless `norm_first`.

    A norm that is None is left out: there are none on branches but in OLMo 2, which has only those, and Gemma, which
    has both; ModernBERT's first block has none before its attention.
    """

    norm1: Norm | None
    attention: Attention
    norm2: Norm | None
    feed_forward: MLP
    norm_first: bool = True
    drop: float = 0.0  # dropout of what a layer adds
    branch1: Norm | None = None
    branch2: Norm | None = None

    def __hash__(self) -> int:
        """Return a hash of a few of its values: planning asks for it often, and blocks that differ are few."""
        attention = self.attention
        return hash(
            (attention.heads, attention.kv_heads, attention.drop, attention.window, self.feed_forward.width, self.drop)
        )


@dataclass(frozen=True)
class Embeddings(Part):
    """The sum of the rows of a token, its position and its segment; in some models a norm after it; dropout. A token's
    row is multiplied by `scale`.

    The first position of a sequence has the row `offset` of its table; rows before it are those of no position, such as
    RoBERTa's row of padding. A stage of a pipeline that only has a copy of the words, to multiply by, has no dropout
    (None).
    """

    token: Table
    position: Table | None = None
    segment: Table | None = None
    norm: Norm | None = None
    drop: float | None = None
    scale: float = 1.0
    offset: int = 0


@dataclass(frozen=True)
class Head(Part):
    """A head: it reads what the stack gives, and gives one loss. Its leaves have their paths in the model, in the order
    of computation.

    An `activation` follows the first of several leaves. The loss of a head of fine-tuning is the name of its class in
    the registry. It drops some of what its last leaf reads; where it chooses between `candidates`, so many rows in turn
    belong to one question. One that answers once for a sequence reads its first token, or the `mean` of all tokens.
    """

    loss: str
    chain: tuple[tuple[str, Leaf], ...]
    activation: Activation | Literal["tanh", "relu", ""] = ""
    drop: float = 0.0
    candidates: int = 0
    mean: bool = False

    @property
    def name(self) -> str:
        """The attribute of the model that holds its module."""
        return self.chain[0][0].partition(".")[0]

    @property
    def width(self) -> int:
        """The numbers that it gives for each row: words, or classes."""
        return next(matrix.outputs.size for _, matrix in reversed([*self.matrices()]))

    @property
    def per_token(self) -> bool:
        """Whether it gives its numbers for every token, not for a whole sequence."""
        return all(matrix.per != "sequence" for _, matrix in self.matrices())

    def parts(self) -> Iterator[tuple[str, Part | Leaf]]:
        """Yield its leaves by their paths in the model."""
        yield from self.chain


@dataclass(frozen=True)
class Spec(Part):
    """A model, or a stage of its pipeline, which has the model's blocks from number `first` on.

    A stage that is not the first lacks the embeddings; one that is not the last lacks the final norm and the heads.
    """

    hidden: int
    positions: int
    embeddings: Embeddings | None
    blocks: tuple[Block, ...]
    norm: Norm | None
    heads: tuple[Head, ...]
    first: int = 0

    def __hash__(self) -> int:
        """Return a hash of a few of its values: one of all blocks takes as long as planning a layout."""
        words = self.embeddings.token.rows if self.embeddings else None
        return hash((self.hidden, self.first, len(self.blocks), len(self.heads), words))

    def parts(self) -> Iterator[tuple[str, Part | Leaf]]:
        """Yield embeddings, blocks by number, the final norm and the leaves of the heads."""
        if self.embeddings:
            yield "transformer.embeddings", self.embeddings
        for number, block in self.numbered():
            yield f"transformer.blocks.{number}", block
        if self.norm:
            yield "transformer.norm", self.norm
        for head in self.heads:
            yield from head.chain

    def parameters(self) -> Iterator[Parameter]:
        """Yield all parameters in the order of the modules. The role of a head's matrices is "head"."""
        heads = {path for head in self.heads for path, _ in head.chain}
        for path, leaf in self.leaves():
            for parameter in leaf.parameters():
                role = "head" if path in heads and parameter.role == "matrix" else parameter.role
                yield parameter._replace(name=f"{path}.{parameter.name}", role=role)

    def numbered(self) -> Iterator[tuple[int, Block]]:
        """Yield its blocks with their numbers in the whole model."""
        return enumerate(self.blocks, self.first)

    @property
    def causal(self) -> bool:
        """Whether it can write: no position sees what follows it."""
        return all(block.attention.causal for block in self.blocks)

    @property
    def losses(self) -> tuple[str, ...]:
        """The names of the losses that its heads give."""
        return tuple(head.loss for head in self.heads)

    @property
    def answer(self) -> Head | None:
        """The head that a task of fine-tuning put in the place of those of pretraining, if one did."""
        return next((head for head in self.heads if head.name == "answer"), None)

    @property
    def tuned(self) -> str:
        """The loss of that head, which is its name; "" for a model with the heads of its pretraining."""
        return self.answer.loss if self.answer else ""

    @property
    def segments(self) -> int:
        """The kinds of segments that it tells apart; 0 if it has no embedding of them."""
        return self.embeddings.segment.rows.size if self.embeddings and self.embeddings.segment else 0

    @cached_property
    def tied(self) -> bool:
        """Whether a head multiplies by the embedding's own weight."""
        return any(matrix.tied for head in self.heads for _, matrix in head.matrices())

    @property
    def elements(self) -> int:
        """The number of its parameters, without padding."""
        return sum(parameter.elements for parameter in self.parameters())

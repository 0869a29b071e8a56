"""The whole configuration of a run: frozen, strict, explained.

A recipe (TOML) is read, `key=value` words override it, `resolve` fills what depends on other keys, once, into a new
value; that value is written into the run folder and never changes. Every key's docstring is its help text.
"""

import ast
import inspect
import sys
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

Fraction = Annotated[float, Field(ge=0, lt=1)]
Size = Annotated[int, Field(gt=0, le=1 << 24)]
Share = Annotated[float, Field(ge=0, le=1e9)]

MOST_CLASSES = 1 << 20  # of a head
LARGEST_SCALE = 2.0**32  # of fp16's loss: beyond it the loss itself would overflow before long


class Section(BaseModel):
    """Common rules of every section: frozen, unknown keys forbidden, no number infinite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_not_one(cls, value: Any, info: ValidationInfo) -> Any:
        """Python takes true for the number 1."""
        assert info.field_name
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("neither true nor false")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _a_number_has_64_bits(cls, value: Any) -> Any:
        """TOML's have no more, and Python's own would not print."""
        if any(
            isinstance(one, int) and one.bit_length() > 64 for one in (value if isinstance(value, list) else [value])
        ):
            raise ValueError("a number of more than 64 bits")
        return value


class ModelConfig(Section):
    """What the network is."""

    family: str = "gpt2"
    """Model family: gpt2, bert, or module:Name."""
    preset: str = ""
    """A named size of the family (124m, 355m, …; tiny, base, large, …); explicit keys override its values."""
    layers: Size = 12
    """Transformer blocks."""
    hidden: Size = 768
    """Width of the residual stream."""
    heads: Size = 12
    """Attention heads; must divide hidden."""
    ffn: Annotated[int, Field(ge=0, le=1 << 24)] = 0
    """Width of the feed-forward layer; 0 means 4 × hidden."""
    positions: Size = 1024
    """Longest sequence the position embeddings allow."""
    vocab: Annotated[int, Field(ge=0, le=1 << 30)] = 0
    """Tokens of the vocabulary; 0 takes it from the data's tokenizer."""
    pad_vocab_to: Size = 128
    """The embedding's rows are padded to a multiple of this, whatever the layout."""
    segments: Annotated[int, Field(ge=0, le=1 << 24)] = 0
    """Kinds of segment embedding (BERT: 2); 0 means none."""
    norm_first: bool = True
    """Layer norm before each sub-layer (pre-LN) or after the residual sum (post-LN, as Google's BERT)."""
    norm_eps: PositiveFloat = 1e-5
    """Epsilon of the layer norms."""
    gelu: Literal["tanh", "erf"] = "tanh"
    """Form of the GELU: GPT-2's tanh or BERT's exact erf."""
    dropout: Fraction = 0.1
    """Dropout after the embeddings and after each sub-layer."""
    attention_dropout: Fraction = 0.0
    """Dropout of the attention probabilities; above 0 it takes the slower math path, exact on every layout."""
    head: Literal["", "classes", "value", "span", "choice", "tokens"] = ""
    """BERT, fine-tuned: what it answers in place of masks and pairs. The task sets it."""
    classes: Annotated[int, Field(ge=0, le=MOST_CLASSES)] = 0
    """Classes of head=classes or tokens, candidates of head=choice."""
    init_std: PositiveFloat = 0.02
    """Standard deviation of the initial weights; residual outputs are divided by sqrt(2 × layers)."""

    @property
    def padded_vocab(self) -> int:
        """Rows of the token embedding: the vocabulary rounded up, the same for every layout."""
        return -(-self.vocab // self.pad_vocab_to) * self.pad_vocab_to


class DataConfig(Section):
    """What it learns from."""

    train: tuple[str, ...] = ()
    """Prepared sets (PREFIX of a .bin/.idx pair), each optionally with a weight: PREFIX@0.7."""
    valid: tuple[str, ...] = ()
    """Held-out sets; empty takes the second part of split from the training sets."""
    test: tuple[str, ...] = ()
    """Test sets; empty takes the third part of split."""
    split: tuple[Share, Share, Share] = (0.98, 0.02, 0.0)
    """Shares of documents for training, validation and test where no explicit sets are given; 949,50,1 will do too."""
    tokenizer: str = ""
    """Tokenizer name or path; empty takes the one written in the data's manifest."""
    sequence: PositiveInt = 1024
    """Tokens of a training sequence."""
    stop_at_documents: bool = False
    """GPT: attention does not cross document boundaries inside a sequence."""
    mask_fraction: Fraction = 0.15
    """BERT: fraction of the tokens to predict (80 % masked, 10 % random, 10 % kept)."""
    whole_word: bool = False
    """BERT: mask whole words rather than single pieces."""
    pairs: Literal["nsp", "sop", "none"] = "nsp"
    """BERT: the second segment's question: true next-sentence, sentence-order, or no pairs."""
    short_fraction: Fraction = 0.1
    """BERT: probability of a sequence of random shorter length."""


class ExamplesConfig(Section):
    """Fine-tuning: what the labelled files hold that data.train and data.valid name."""

    form: Literal["table", "squad", "squad2", "race", "swag", "tags"] = "table"
    """The files' layout: columns (.tsv, .csv, .jsonl), that of SQuAD 1.1, SQuAD 2.0, RACE or SWAG, or tagged words."""
    text: str = "text"
    """Column of the text, or of the prompt; a number from 0 on where a table has no head."""
    pair: str = ""
    """Column of a second text."""
    label: str = "label"
    """Column of the class, of the number, or of the completion."""
    labels: tuple[str, ...] = ()
    """Names of the classes, in order; empty takes those of the training files."""
    metric: str = ""
    """What the best checkpoint has most of; empty takes the task's own, loss the lowest held-out loss."""
    stride: PositiveInt = 128
    """Questions: tokens by which the windows of a long context advance."""
    longest: PositiveInt = 30
    """Questions: tokens of an answer, at most."""
    threshold: float = 0.0
    """SQuAD 2.0: how much likelier no answer must be than the best one."""


class OptimConfig(Section):
    """How the weights move."""

    name: str = "adamw"
    """Optimizer: adamw, lamb, muon (matrices; AdamW for the rest), or module:Name."""
    lr: PositiveFloat = 3e-4
    """Peak learning rate."""
    min_lr: NonNegativeFloat = 0.0
    """Learning rate the decay ends at."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay; never applied to biases and norms."""
    beta1: Fraction = 0.9
    """Decay of the first moment."""
    beta2: Fraction = 0.999
    """Decay of the second moment."""
    eps: PositiveFloat = 1e-8
    """Epsilon of the update's denominator."""
    clip: NonNegativeFloat = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    schedule: Literal["constant", "linear", "polynomial", "cosine"] = "cosine"
    """Decay of the learning rate after the warm-up."""
    power: PositiveFloat = 0.5
    """Degree of the polynomial decay."""
    warmup: NonNegativeFloat = 0.0
    """Linear warm-up: steps, or a fraction of train.steps when below 1."""


class TrainConfig(Section):
    """How long, how much at a time."""

    steps: PositiveInt = 1000
    """Optimizer steps of the run."""
    batch: PositiveInt = 32
    """Sequences of one optimizer step, over all devices and accumulation."""
    rampup: tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt] = (0, 0, 0)
    """Batch ramp-up as (first batch, increment, samples of the ramp); zeros turn it off."""
    seed: NonNegativeInt = 1234
    """Seed of weights, data order, masks and dropout."""
    init: str = ""
    """A run folder whose weights and optimizer moments this run starts from (BERT's second phase)."""
    eval_every: NonNegativeInt = 100
    """Steps between evaluations on the held-out data; 0 turns them off."""
    eval_sequences: PositiveInt = 256
    """Held-out sequences of one evaluation, at most."""
    patience: NonNegativeInt = 0
    """Stop when this many evaluations in a row did not improve the held-out loss; 0 never stops early."""
    max_bad_steps: PositiveInt = 10
    """Stop after this many skipped steps in a row (NaN or infinite loss or gradient)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU when there is one."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the blocks with torch.compile; auto does when a compiler is found and the run is long enough."""


class LayoutConfig(Section):
    """How the work is laid out over processes: tp × cp × pp × dp of them, one for each device."""

    tp: PositiveInt = 1
    """Tensor parallelism: processes that share every layer (heads, feed-forward, vocabulary)."""
    sequence_parallel: bool = True
    """With tp above 1, split the residual stream by positions too: less memory, the same traffic."""
    cp: PositiveInt = 1
    """Context parallelism: processes that share every sequence."""
    context: Literal["gather", "ring"] = "gather"
    """With cp above 1: all keys and values on every process, or passed around between them (long sequences)."""
    pp: PositiveInt = 1
    """Pipeline parallelism: processes that share the blocks."""
    schedule: Literal["1f1b", "interleaved", "zbv"] = "1f1b"
    """Pipeline's order: one forward one backward, the same with several chunks a process, or zero-bubble V."""
    chunks: PositiveInt = 1
    """Stages of one process; interleaved needs 2 or more."""
    dp: NonNegativeInt = 0
    """Data parallelism: replicas, each with its sequences of the batch; 0 takes the processes that are left."""
    shard: Literal["none", "zero2", "zero3"] = "none"
    """Shard parameters, gradients and moments over the replicas; zero3 frees whole weights between their uses."""
    shard_ways: NonNegativeInt = 0
    """Processes that share one set of shards (hybrid sharding), a multiple of cp; 0 shards over all replicas."""
    micro_batch: NonNegativeInt = 0
    """Sequences of one forward pass on one device; 0 takes the replica's whole batch, or with pp a share of it."""
    recompute: Literal["none", "block", "attention"] = "none"
    """Activations to compute again in backward instead of keeping: none, whole blocks, or attention only."""
    timeout: Annotated[float, Field(gt=0, lt=600)] = 480.0
    """Seconds that processes wait for another before the run ends and says who and where; NCCL ends it after 600."""


class PrecisionConfig(Section):
    """In what numbers it computes. Weights, moments and the residual stream stay fp32."""

    dtype: Literal["auto", "fp32", "bf16", "fp16", "fp8"] = "auto"
    """Numbers of the matrix products; auto: bf16 where the hardware has it, else fp32; fp8: in blocks, else bf16."""
    loss_scale: Annotated[float, Field(gt=0, le=LARGEST_SCALE)] = 65536.0
    """fp16: first loss scale."""
    scale_window: PositiveInt = 1000
    """fp16: good steps in a row before the scale doubles."""
    scale_floor: PositiveFloat = 1.0
    """fp16: the smallest scale; overflow at the floor counts as a bad step."""


class SaveConfig(Section):
    """What is kept."""

    every: NonNegativeInt = 500
    """Steps between checkpoints; 0 saves at the end only."""
    keep: PositiveInt = 2
    """Newest checkpoints kept; the best by held-out loss is kept besides."""
    asynchronous: bool = True
    """Write in the background while training goes on."""


class LogConfig(Section):
    """What is told."""

    every: PositiveInt = 1
    """Steps between records in metrics.jsonl and what other trackers show."""
    print_every: PositiveInt = 10
    """Steps between printed lines when the output is not a terminal."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Who is told of the run beside metrics.jsonl and the console: tensorboard, or module:Name."""


class Config(Section):
    """A run."""

    task: str = "clm"
    """What is learned: clm, mlm; of labelled files classes, value, span, choice, tokens, completion; or module:Name."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    examples: ExamplesConfig = ExamplesConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    layout: LayoutConfig = LayoutConfig()
    precision: PrecisionConfig = PrecisionConfig()
    save: SaveConfig = SaveConfig()
    log: LogConfig = LogConfig()


@cache
def help_texts() -> dict[str, str]:
    """The help text of every key by its class and name, as `OptimConfig.lr`: the docstring below it in this file.

    It is read when somebody asks; pydantic's own reading (`use_attribute_docstrings`) would slow every start.
    """
    texts = {}
    for section in ast.parse(inspect.getsource(sys.modules[__name__])).body:
        if not isinstance(section, ast.ClassDef):
            continue
        for key, below in pairwise(section.body):
            match key, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    texts[f"{section.name}.{name}"] = inspect.cleandoc(text)
    return texts

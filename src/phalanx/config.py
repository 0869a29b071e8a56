"""The whole configuration of a run: frozen, strict, explained.

A recipe (TOML) is read, `key=value` words override it, `resolve` fills what depends on other keys, once, into a new
value; that value is written into the run folder and never changes. Every key's docstring is its help text. [model]
belongs to the family that it names, as [optim] does to the optimizer: the base has what all share, the class its own.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    ValidatorFunctionWrapHandler,
    field_validator,
)  # fmt: skip

from phalanx.model_config import ModelConfig as ModelConfig
from phalanx.model_config import model_section, named, validated
from phalanx.optimizer import OptimConfig, optimizer_of
from phalanx.section import Fraction, Section, Share

OPTIMIZER = "adamw"  # where none is named
MOST_CLASSES = 1 << 20  # of a head
LARGEST_SCALE = 2.0**32  # of fp16's loss: beyond it the loss itself would overflow before long


class DataConfig(Section):
    """What it learns from."""

    train: tuple[str, ...] = ()
    """Prepared sets (PREFIX of a .bin/.idx pair, here or s3://…) or module:Name; a weight may follow: PREFIX@0.7."""
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
    restart_positions: bool = False
    """With stop_at_documents: count positions from where each document begins; else they go on from the sequence's."""
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
    z_loss: NonNegativeFloat = 0.0
    """Coefficient of the z-loss, the mean square of the log of the vocabulary's softmax sum (PaLM: 1e-4); 0: none."""
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
    """Which checkpoints are kept, and how often they are made."""

    every: NonNegativeInt = 500
    """Steps between checkpoints; 0 saves at the end only."""
    keep: PositiveInt = 2
    """Newest checkpoints kept; the best by held-out loss is kept besides."""
    asynchronous: bool = True
    """Write in the background while training goes on."""


class LogConfig(Section):
    """What is printed and recorded, and how often."""

    every: PositiveInt = 1
    """Steps between records in metrics.jsonl and what other trackers show."""
    print_every: PositiveInt = 10
    """Steps between printed lines when the output is not a terminal."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Who is told of the run beside metrics.jsonl and the console: tensorboard, or module:Name."""


class Config(Section):
    """The whole configuration of a run, by its sections."""

    task: str = "clm"
    """What is learned: clm, mlm; of labelled files classes, value, span, choice, tokens, completion; or module:Name."""
    model: SerializeAsAny[ModelConfig] = Field(default_factory=lambda: model_section({}))
    data: DataConfig = DataConfig()
    examples: ExamplesConfig = ExamplesConfig()
    optim: SerializeAsAny[OptimConfig] = Field(default_factory=lambda: optimizer_of(OPTIMIZER).model_validate({}))
    train: TrainConfig = TrainConfig()
    layout: LayoutConfig = LayoutConfig()
    precision: PrecisionConfig = PrecisionConfig()
    save: SaveConfig = SaveConfig()
    log: LogConfig = LogConfig()

    @field_validator("model", mode="wrap")
    @classmethod
    def _by_family(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        """Have [model] validated by the class of the family that it names."""
        if not isinstance(value, Mapping):
            return handler(value)
        return model_section(value)

    @field_validator("optim", mode="wrap")
    @classmethod
    def _by_optimizer(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        """Have [optim] validated by the class of the optimizer that it names."""
        if not isinstance(value, Mapping):
            return handler(value)
        name = named(value, "name", OPTIMIZER)
        return validated(optimizer_of(name), value, "optim", name)

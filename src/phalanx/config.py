"""The whole configuration of a run: frozen, strict, explained.

A recipe (TOML) is read, `key=value` words override it, `resolve` fills what depends on other keys, once, into a new
value; that value is written into the run folder and never changes. Every key's docstring is its help text. [model]
belongs to the family that it names, as [optim] does to the optimizer: the base has what all share, the class its own.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)  # fmt: skip

from phalanx import registry
from phalanx.errors import InputError
from phalanx.optimizer import OptimConfig, optimizer_of
from phalanx.section import Fraction, Section, Share, Size, shadowed

if TYPE_CHECKING:
    from phalanx.spec.model import Spec

FAMILY, OPTIMIZER = "gpt2", "adamw"  # where none is named
MOST_CLASSES = 1 << 20  # of a head
LARGEST_SCALE = 2.0**32  # of fp16's loss: beyond it the loss itself would overflow before long

S = TypeVar("S", bound=Section)


class ModelConfig(Section):
    """What the network is."""

    # The keys that all families have. A family's own section is a subclass with its own keys, defaults and `spec`.
    family: str
    """Model family: gpt2, bert, roberta, xlm-roberta, distilbert, llama, qwen3, olmo, gemma3, or module:Name; `phalanx
    train --help model.family=NAME` lists its keys."""
    preset: str = ""
    """A named size of the family (124m, 355m, …; tiny, base, large, …); explicit keys override its values."""
    layers: Size = 12
    """Transformer blocks."""
    hidden: Size = 768
    """Width of the residual stream."""
    heads: Size = 12
    """Attention heads; must divide hidden, unless the family has a key for their width."""
    ffn: Annotated[int, Field(ge=0, le=1 << 24)] = 0
    """Width of the feed-forward layer; 0 takes the family's own: 4 × hidden in GPT-2 and BERT."""
    positions: Size = 1024
    """Longest sequence the position embeddings allow."""
    vocab: Annotated[int, Field(ge=0, le=1 << 30)] = 0
    """Tokens of the vocabulary; 0 takes it from the data's tokenizer."""
    pad_vocab_to: Size = 128
    """The embedding's rows are padded to a multiple of this, whatever the layout."""
    norm_eps: PositiveFloat = 1e-5
    """Epsilon of the norms."""
    dropout: Fraction = 0.1
    """Dropout after the embeddings and after each sub-layer."""
    attention_dropout: Fraction = 0.0
    """Dropout of the attention probabilities; above 0 it takes the slower math path, exact on every layout."""
    init_std: PositiveFloat = 0.02
    """Standard deviation of the initial weights, before init_cut."""
    init_cut: NonNegativeFloat = 0.0
    """Initial weights are drawn within so many deviations (OLMo 2: 3, ModernBERT: 2); 0: from the whole normal."""
    init_residual: Literal["scaled", "same"] = "scaled"
    """Of what adds to the residual stream: init_std / sqrt(2 × layers), as GPT-2, or the same, as HF's Llama."""
    init_head: Literal["same", "width"] = "same"
    """Of a head's own weight over the vocabulary: init_std, or 1 / sqrt(hidden), as torchtitan's Llama."""

    @model_validator(mode="after")
    def _definite(self) -> Self:
        """Give `ffn` its value, so that nobody after this asks what 0 means."""
        if not self.ffn:
            object.__setattr__(self, "ffn", self.default_ffn)  # frozen for all others; nobody has seen it yet
        return self

    @property
    def default_ffn(self) -> int:
        """Width of the feed-forward layer where no key says it."""
        return 4 * self.hidden

    @property
    def stds(self) -> tuple[float, float]:
        """Deviations of the initial weights of what reads the residual stream, and of what adds to it."""
        ways = 2 * self.layers if self.init_residual == "scaled" else 1
        return self.init_std, self.init_std / math.sqrt(ways)

    @property
    def head_std(self) -> float:
        """Deviation of the initial weights of a head over the vocabulary."""
        return self.init_std if self.init_head == "same" else 1 / math.sqrt(self.hidden)

    @property
    def usual_vocab(self) -> int:
        """Tokens that published models of this section have, for plans without `vocab` and data; 0: none is usual."""
        return 0

    @property
    def padded_vocab(self) -> int:
        """Rows of the token embedding: the vocabulary rounded up, the same for every layout."""
        return -(-self.vocab // self.pad_vocab_to) * self.pad_vocab_to

    def spec(self) -> "Spec":
        """Return the description of the model that this section configures. Ask `spec_of`, which keeps it."""
        raise InputError(f"model.family={self.family}: its Config has no spec(), which describes the model")

    def check(self) -> None:
        """Raise InputError for sizes that no model of the family can have."""
        if self.hidden % self.heads:
            fits = [n for n in range(1, self.hidden // 16 + 1) if self.hidden % n == 0]
            near = sorted(fits, key=lambda n: abs(n - self.heads))[:4]
            choice = ", ".join(map(str, sorted(near))) or "1"
            raise InputError(f"model.heads={self.heads} does not divide model.hidden={self.hidden}; use {choice}")

    def tuned(self, head: str, classes: int | None = None) -> Self:
        """Return the section with a head of fine-tuning (the name of one of registry.HEADS, or "module:Name"), or with
        those of pretraining ("").

        `classes` is the number of its classes or candidates, by default what the section says. InputError for a family
        that has no such heads.
        """
        if head:
            raise InputError(f"the head {head} is none that model.family={self.family} has; use model.family=bert")
        return self


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
    model: SerializeAsAny[ModelConfig] = Field(default_factory=lambda: section_of(FAMILY).model_validate({}))
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
        name = _named(value, "name", OPTIMIZER)
        return _validated(optimizer_of(name), value, "optim", name)


def _named(section: Mapping[str, Any], key: str, otherwise: str) -> str:
    """Return whose section it is, where that is a text; what is none is refused with the section."""
    name = section.get(key, otherwise)
    return name if isinstance(name, str) else otherwise


def model_section(keys: Mapping[str, Any]) -> ModelConfig:
    """Return a [model] section with these keys, validated by the class of its family."""
    family = _named(keys, "family", FAMILY)
    return _validated(section_of(family), keys, "model", family)


def _validated(section: type[S], keys: Mapping[str, Any], where: str, name: str) -> S:
    """Return a section, which `name` owns, with these keys. InputError for a validator from outside that breaks, and
    for a value that could change.
    """
    owner, wrong = {"model": "model.family", "optim": "optim.name"}[where], None
    with registry.blamed(owner, name, f"a validator of its [{where}]"):
        try:
            made = section.model_validate(keys)
        except ValidationError as error:  # about a key, and told by it
            wrong = error
    if wrong:
        raise wrong

    for key in section.model_fields:
        if (kind := getattr(made, key).__class__).__hash__ is None:
            raise InputError(f"{owner}={name}: {where}.{key} is a {kind.__name__}, which could change; use a tuple")
    return made


def section_of(family: str) -> type[ModelConfig]:
    """Return the class of a family's [model] section. InputError where there is no such family."""
    section = registry.MODELS.find(family).Config
    if not (isinstance(section, type) and issubclass(section, ModelConfig)):
        raise InputError(f"model.family={family}: its Config is no subclass of phalanx.config.ModelConfig")
    if reason := shadowed(section, ModelConfig):
        raise InputError(f"model.family={family}: its Config's key {reason}")
    return section

"""A model laid out over a mesh: everything that a trainer has to do for it and would not do for one process.

Each rank builds its stages without memory, cuts them down to its share of every layer, and only then fills what is
left, by global coordinates: nobody ever holds the whole.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn

from phalanx.config import Config
from phalanx.nn.batch import Batch
from phalanx.nn.init import Piece, initialise
from phalanx.nn.model import Model
from phalanx.parallel import context_parallel, data_parallel, pipeline, placement
from phalanx.parallel.mesh import ALONE, Mesh
from phalanx.parallel.parameters import Local, Parameters
from phalanx.parallel.pipeline import Objective, Pipeline, Stage, Sums
from phalanx.parallel.tensor_parallel import shard
from phalanx.spec import partition
from phalanx.spec.model import WORDS, Spec
from phalanx.spec.partition import Ranks


class Piped(nn.Module):
    """A model that is a pipeline as one module: a batch in, its sums out, which are empty but on the last stage."""

    def __init__(self, stages: Sequence[Stage], pipeline: Pipeline) -> None:
        super().__init__()
        self.stages, self.pipeline = nn.ModuleList(stages), pipeline

    def forward(self, batch: Batch) -> Sums:
        """Return the sums of a batch, without gradients."""
        return self.pipeline.forward(batch)


class Layout:
    """The model of a run over its mesh: this rank's stages, their parameters, and a step's forward and backward passes.

    `spec` describes the model; `prepare_stage` does to a stage of it what the run wants (precision, compile); within
    `memory`, which only a trace gives, its weights come to be, and nobody writes them.
    """

    def __init__(self, config: Config, mesh: Mesh, spec: Spec, prepare_stage: Callable[[nn.Module], None],
                 memory: AbstractContextManager[object] | None = None) -> None:  # fmt: skip
        self.config, self.mesh, self.spec, self.device = config, mesh, spec, torch.device(config.train.device)
        self.stages: list[Stage] = []
        self.locals: dict[str, Local] = {}
        self.ranks = Ranks(mesh.tp.size, config.layout.sequence_parallel, mesh.tp.rank)

        count = placement.stage_count(config.layout)
        spread = placement.assign_layers(spec, count)
        for number in placement.stage_numbers(config.layout, mesh.pp.rank):
            with torch.device("meta"):
                model = Model(partition.stage(spec, number, spread))

            # cut and fill slots first: `prepare_stage` compiles a loss only where no slot says that its vocabulary is
            # split; memory comes after all of it, so that nobody ever holds the whole
            shard(model, mesh.tp, self.ranks)
            context_parallel.split_sequences(model, mesh.cp, config.layout.context)
            prepare_stage(model)

            stage = Stage(model, number == 0, number == count - 1)
            pipeline.unsplit(stage)
            self.stages.append(stage)

        # in the order of stages: the last of a V takes the word embedding of the first
        with memory or nullcontext():
            for stage in self.stages:
                self._materialise(stage, write=memory is None)

        # from tensors that have memory: what the optimizer moves and buckets hook is what is there now
        self.parameters = Parameters(self.locals, mesh.within, config.precision.dtype)
        self.buckets = None if self.sharded else data_parallel.Buckets(self.parameters.values(), mesh.data)
        self.pipeline = self._pipeline() if mesh.pp.size > 1 else None
        self.module: nn.Module = self.stages[0].model if self.pipeline is None else Piped(self.stages, self.pipeline)

    @property
    def sharded(self) -> bool:
        """Whether parameters are split over replicas (ZeRO)."""
        return self.mesh.fsdp is not None

    def local_batch(self, batch: Batch) -> Batch:
        """Return this rank's part of its replica's sequences: with context parallelism its positions of each."""
        return context_parallel.slice_batch(batch, self.mesh.cp)

    def micro_batches(self, batch: Batch) -> list[Batch]:
        """Cut a batch into those of `layout.micro_batch` sequences; the last may be smaller."""
        size = self.config.layout.micro_batch
        return [batch.rows(start, start + size) for start in range(0, len(batch.tokens), size)]

    def global_counts(self, losses: Sequence[str], counts: Mapping[str, Tensor]) -> dict[str, int]:
        """Return over how many positions of all replicas each of the `losses` is summed, from this rank's `counts`:
        int64 [] each, on the CPU, so that nobody waits for the device.
        """
        none = torch.zeros((), dtype=torch.int64)
        values = torch.stack([counts.get(name, none) for name in losses])

        # ranks of the tp and pp axes have the same positions: only those of dp and cp add up; integers, so exact
        if self.mesh.data.size > 1:
            dist.all_reduce(values, group=self.mesh.data.group)
        return dict(zip(losses, values.tolist(), strict=True))

    def backward(self, batches: Sequence[Batch], objective: Objective) -> list[Sums]:
        """Compute gradients of micro-batches' objectives, summed over all ranks with a part; return each one's sums."""
        if self.buckets:
            self.buckets.begin(len(batches))

        if self.pipeline:
            sums = self.pipeline.run(batches, objective)
        else:
            sums = [self._accumulate(batch, objective, batch is batches[-1]) for batch in batches]

        self._sum_gradients()
        return sums

    def _accumulate(self, batch: Batch, objective: Objective, last: bool) -> Sums:
        model = self.stages[0].model
        if self.sharded:
            data_parallel.set_accumulation(model, last, reshard=last or self.config.layout.shard == "zero3")
        sums: Sums = self.module(batch)
        objective(sums).backward()  # type: ignore[no-untyped-call]
        return {name: value.detach() for name, value in sums.items()}

    def _sum_gradients(self) -> None:
        """Add other ranks' terms to the gradients: replicas', the tied embedding's, then those of partial boxes."""
        if self.buckets:
            self.buckets.synchronize()

        for local in self.locals.values():
            if local.source is not local.tensor:  # sharded: `fully_shard` has summed it over the replicas
                grad = local.source.grad
                local.tensor.grad = None if grad is None else data_parallel.local(grad)
            if local.tensor.grad is None:  # unused: between replicas zeros are summed, so zeros everywhere
                local.tensor.grad = torch.zeros_like(local.tensor)

        # after the sum over replicas: both ends then exchange sums, once a step; a V has both ends on one rank
        if self.spec.tied and self.mesh.pp.size > 1 and self.config.layout.schedule != "zbv":
            pipeline.tie(self.parameters.get(WORDS), self.mesh.pp)

        # norms split by positions have the terms of their positions, copies of a key head those of their queries
        for axis in self.mesh.sharing:
            self.parameters.add_partial_gradients(axis)

    def totals(self, sums: Sequence[Sums], names: Sequence[str], *terms: Tensor) -> Tensor:
        """Return the losses `names` of a step's micro-batches summed over all positions, then `terms` (one a rank)
        summed over all ranks: float32 [names + terms], the same on every rank.
        """
        zero = torch.zeros((), device=self.device)
        # in fp32, as thousands of positions add up; divided by tp because each rank of that axis has the same sum
        losses = [sum((s[name].float() for s in sums if name in s), zero) / self.mesh.tp.size for name in names]
        values = torch.stack([*losses, *terms])

        # over the world: of a pipeline only the last stage has losses, while every stage has its terms
        if self.mesh.world.size > 1:
            dist.all_reduce(values)
        return values

    def _pipeline(self) -> Pipeline:
        layout, data_ = self.config.layout, self.config.data
        width = data_.sequence // layout.cp // (layout.tp if layout.sequence_parallel else 1)
        return Pipeline(self.stages, layout, self.mesh.pp, (layout.micro_batch, width, self.spec.hidden), self.device)

    def _materialise(self, stage: Stage, write: bool) -> None:
        """Give memory to what this rank holds of a stage, and first weights; note it in `locals`."""
        model, mesh = stage.model, self.mesh
        whole = stage if mesh.pp.size > 1 else model
        data_parallel.allocate(whole, mesh, self.device, self.config.layout.shard == "zero3")
        shards = mesh.shards if self.sharded else ALONE

        for parameter in model.spec.parameters():
            name, source = parameter.name, model.get_parameter(parameter.name)
            if name in self.locals:  # a V of stages begins and ends here: one word embedding serves both
                module, kind = name.rsplit(".", 1)
                setattr(model.get_submodule(module), kind, self.locals[name].source)
                continue
            tensor = nn.Parameter(data_parallel.local(source)) if self.sharded else source
            rows = -(-source.shape[0] // shards.size)  # as `fully_shard` divides them: the last have fewer, or none
            boxes = partition.rows(partition.place(parameter, self.ranks), rows * shards.rank, rows)
            twin = stage.last and not stage.first and name == WORDS
            replicas = mesh.data.size // shards.size
            self.locals[name] = Local(tensor, source, parameter, tuple(boxes), twin, replicas)

        if write:
            pieces = {
                name: [Piece(local.tensor.data[box.local_slices], box.global_offset) for box in local.boxes]
                for name, local in self.locals.items()
            }
            initialise(model, self.config.train.seed, pieces, self.config.model.init_cut)

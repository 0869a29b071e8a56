"""A run that begins with the weights of another: of the same model, or of one to be fine-tuned, with another head."""

from collections.abc import Mapping

import torch
from torch.distributed import ProcessGroup
from torch.optim import Optimizer

from phalanx.config import Config, ModelConfig
from phalanx.errors import InputError
from phalanx.models.family import spec_of
from phalanx.parallel.parameters import Parameters
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder
from phalanx.spec.model import Spec
from phalanx.train import state
from phalanx.values import toml

Shapes = Mapping[str, tuple[int, ...]]


def weights_misfit(config: Config, body_only: bool) -> str:
    """Return why the weights of the run that train.init names are not those of this model, by the keys of [model]; ""
    if they are. With `body_only`, of a model to be fine-tuned, all but the head is compared.
    """
    init, run = config.train.init, RunFolder.open(config.train.init)
    ours, theirs = config.model, run.config().model
    spec, saved = spec_of(ours), Checkpointer(run).shapes("model", best=body_only)
    shapes, taken = _shapes(spec), _taken(spec, saved)

    wrong = [name for name in shapes if name not in taken and not (body_only and name.startswith("answer."))]
    if not body_only:
        wrong += saved.keys() - shapes.keys()
    if not wrong and _heads(spec) == _heads(spec_of(theirs)):
        return "" if body_only else _other_moments(config, run)

    if body_only and ours.family == theirs.family:
        ours, theirs = ours.tuned("", 0), theirs.tuned("", 0)
    keys = _different(ours, theirs)
    if not keys:
        return f"train.init={init}: {wrong[0]} is {saved.get(wrong[0], 'absent')} there and {shapes.get(wrong[0])} here"
    of_theirs, of_ours = (_listed(model, keys) for model in (theirs, ours))
    would = "" if body_only else f", as `phalanx train … --from {init}` does"
    return f"train.init={init} is of another model: {of_theirs}, not {of_ours}; take its keys{would}"


def _other_moments(config: Config, run: RunFolder) -> str:
    """Return why the optimizer cannot go on from the moments that another left; "" if it can, or nobody knows."""
    init, ours, name = config.train.init, config.optim, run.config().optim.name
    if ours.name == name or not Checkpointer(run).shapes("optimizer"):
        return ""
    parameters = [*spec_of(config.model).parameters()]
    try:
        kept = [[*map(optim.state, parameters)] for optim in (ours, run.config(trained=True).optim)]
    except InputError:  # of one from outside
        return ""
    if kept[0] == kept[1]:
        return ""
    return f"train.init={init} has moments of optim.name={name}, from which {ours.name} cannot go on; use {name}"


def _listed(model: ModelConfig, keys: list[str]) -> str:
    return ", ".join(f"model.{key}={toml(getattr(model, key))}" for key in keys)


def warm_start(config: Config, parameters: Parameters, optimizers: list[Optimizer], group: ProcessGroup | None,
               body_only: bool) -> str:  # fmt: skip
    """Load what train.init names, on every rank alike; `body_only` leaves its head out. Return a sentence on what was
    loaded.
    """
    other = Checkpointer(RunFolder.open(config.train.init), group=group)
    if body_only:
        return _load_body(config, parameters, other)
    return _load_whole(config, parameters, optimizers if other.shapes("optimizer") else [], other)


def _load_whole(config: Config, parameters: Parameters, optimizers: list[Optimizer], other: Checkpointer) -> str:
    """Load the newest weights and moments; return a sentence on it. The optimizer's count of steps begins anew with the
    learning rate, as in the second phase of NVIDIA's BERT recipe.
    """
    weights = state.capture_weights(parameters, optimizers)
    restored = other.load(weights, places=state.places(weights, parameters))
    with torch.no_grad():
        for moments in weights["optimizer"]["state"].values():
            if "step" in moments:
                moments["step"].zero_()
    return f"starting from step {restored.step} of {config.train.init}"


def _load_body(config: Config, parameters: Parameters, other: Checkpointer) -> str:
    """Load the best weights, as far as the model has them too; return a sentence on what was, and what was not."""
    spec, saved, init = spec_of(config.model), other.shapes("model", best=True), config.train.init
    names = _taken(spec, saved)

    tensors = state.capture_weights(parameters, [])["model"]
    weights = {"model": {names[name]: tensor for name, tensor in tensors.items() if name in names}}
    places = {f"model/{names[name]}": place for name, place in parameters.places().items() if name in names}
    restored = other.load(weights, best=True, places=places, whole=False)

    new, left = _shapes(spec).keys() - names.keys(), saved.keys() - set(names.values())
    note = f"starting from step {restored.step} of {init}"
    note += f"; at random: {', '.join(sorted(new))}" if new else ""
    return note + (f"; of no use here: {', '.join(sorted(left))}" if left else "")


def _taken(spec: Spec, saved: Shapes) -> dict[str, str]:
    """Return which weights of a model a checkpoint has in the same shape: their names here, and there. BERT's pooler
    was taught by the question about pairs; a head with a norm, as ModernBERT's, begins as the one for masks does.
    """
    former, names = {"answer.pooler.": "pair.pooler."}, {}
    if spec.answer and any(path == "answer.norm" for path, _ in spec.answer.chain):
        former = {"answer.pooler.": "masked.transform.", "answer.norm.": "masked.norm."}

    for name, shape in _shapes(spec).items():
        stem = next((stem for stem in former if name.startswith(stem)), "")
        theirs = name if name in saved or not stem else former[stem] + name.removeprefix(stem)
        if saved.get(theirs) == shape:
            names[name] = theirs
    return names


def _shapes(spec: Spec) -> Shapes:
    return {parameter.name: parameter.shape for parameter in spec.parameters()}


def _heads(spec: Spec) -> list[tuple[int, int]]:
    """Return what no shape tells: into how many heads the rows of each block's attention are divided."""
    return [(block.attention.heads, block.attention.kv_heads) for block in spec.blocks]


def _different(ours: ModelConfig, theirs: ModelConfig) -> list[str]:
    """Return the keys in which two models differ, but for rates that change no weight."""
    if ours.family != theirs.family:
        return ["family"]
    both = ((key, getattr(ours, key), getattr(theirs, key)) for key in type(ours).model_fields if key != "preset")
    return [key for key, own, other in both if own != other and not isinstance(own, float)]

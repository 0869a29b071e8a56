"""A run that begins with the weights of another: of the same model, or of one to be fine-tuned, with another head."""

import torch
from torch.distributed import ProcessGroup
from torch.optim import Optimizer

from phalanx.config import Config
from phalanx.errors import InputError
from phalanx.models.family import spec_of
from phalanx.parallel.parameters import Parameters
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder
from phalanx.train import state


def begin(config: Config, parameters: Parameters, optimizers: list[Optimizer], group: ProcessGroup | None,
          tune: bool) -> str:  # fmt: skip
    """Load what train.init names, on every rank alike, and say what was done. To fine-tune, `tune`, only weights."""
    other = Checkpointer(RunFolder.open(config.train.init), group=group)
    if tune:
        return _body(config, parameters, other)
    return _whole(config, parameters, optimizers if other.shapes("optimizer") else [], other)


def _whole(config: Config, parameters: Parameters, optimizers: list[Optimizer], other: Checkpointer) -> str:
    """The newest weights and moments. The optimizer's count of steps begins anew with the learning rate, as in the
    second phase of NVIDIA's BERT recipe.
    """
    weights = state.capture_weights(parameters, optimizers)
    restored = other.load(weights, places=state.places(weights, parameters))
    with torch.no_grad():
        for moments in weights["optimizer"]["state"].values():
            if "step" in moments:
                moments["step"].zero_()
    return f"starting from step {restored.step} of {config.train.init}"


def _body(config: Config, parameters: Parameters, other: Checkpointer) -> str:
    """The best weights, as far as the model has them too. BERT's pooler was taught by the question about pairs."""
    there, init = other.shapes("model", best=True), config.train.init
    shapes = {parameter.name: parameter.shape for parameter in spec_of(config.model).parameters()}
    names = {}
    for name, shape in shapes.items():
        theirs = name if name in there else name.replace("answer.pooler.", "pair.pooler.")
        if there.get(theirs) == shape:
            names[name] = theirs
        elif not name.startswith("answer."):
            raise InputError(
                f"train.init={init}: {name} is {there.get(theirs, 'absent')} there and {shape} here; take its sizes"
            )
    tensors = state.capture_weights(parameters, [])["model"]
    weights = {"model": {names[name]: tensor for name, tensor in tensors.items() if name in names}}
    places = {f"model/{names[name]}": place for name, place in parameters.places().items() if name in names}
    restored = other.load(weights, best=True, places=places, whole=False)
    new, left = shapes.keys() - names.keys(), there.keys() - set(names.values())
    told = f"starting from step {restored.step} of {init}"
    told += f"; at random: {', '.join(sorted(new))}" if new else ""
    return told + (f"; of no use here: {', '.join(sorted(left))}" if left else "")

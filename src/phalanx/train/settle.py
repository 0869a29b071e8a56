"""What a configuration says on any machine: presets are laid under it, and what contradicts itself is refused."""

from collections.abc import Mapping
from typing import Any

from phalanx import recipe
from phalanx.config import Config
from phalanx.errors import InputError
from phalanx.models.family import spec_of, with_preset
from phalanx.train.schedule import check_schedule


def expand(mapping: Mapping[str, Any]) -> Config:
    """A validated configuration with the model's preset laid under the explicit keys."""
    model = mapping.get("model", {})
    return recipe.validate({**mapping, "model": with_preset(model)})


def settle(config: Config, vocab: int) -> Config:
    """With a definite model, for a tokenizer of `vocab` tokens; InputError for what cannot run anywhere."""
    model, data = config.model, config.data
    if 0 < model.vocab < vocab:
        raise InputError(f"model.vocab={model.vocab} but the data's tokenizer has {vocab} tokens; leave model.vocab=0")
    if data.sequence > model.positions:
        raise InputError(
            f"data.sequence={data.sequence} is longer than model.positions={model.positions}; lower it or raise those"
        )
    model = model.model_copy(update={"vocab": model.vocab or vocab})
    if spec_of(model).segments == 1 and config.task == "mlm" and data.pairs != "none":
        raise InputError(f"model.segments=1 but data.pairs={data.pairs} makes two segments; use 2, or data.pairs=none")
    check_schedule(config)
    return config.model_copy(update={"model": model})

"""The measurements on the way: held-out losses, a few closed-loop episodes, the questions."""

from typing import Any

import jax
import numpy as np

from vla_jax.data.loader import collate
from vla_jax.experiment import evaluation, flaws, parts, sources
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.sources import Data
from vla_jax.policy.policy import Policy
from vla_jax.runtime import peers, sharding
from vla_jax.tokens.encoder import Encoder
from vla_jax.train import loss
from vla_jax.train.action_errors import ActionErrors


class HeldOut:
    """Measures the parameters of a run in progress.

    Args:
      config: the run.
      data: its datasets.
      encoder: its tokens.
      model: its model.
      measure: the loss function.
      errors: those of actions, that its sums hold.
    """

    def __init__(
        self,
        config: RunConfig,
        data: Data,
        encoder: Encoder,
        model: parts.Model,
        measure: Any,
        errors: ActionErrors,
    ):
        self._config, self._data, self._errors = config, data, errors
        self._encoder, self._model = encoder, model
        self._measure = peers.compiled_together(
            jax.jit(lambda params, batch: measure(params, batch)[1]["sums"])
        )
        part, parts_in_all = sharding.batch_part(model.mesh)
        size = config.loader.batch_size // parts_in_all
        numbers = {name: number for number, name in enumerate(data.names)}
        sound = flaws.sound(config, encoder)
        self._batches = [
            collate(
                [sound(source, i)[1] for i in chosen],
                [numbers[name]] * size,
                data.sources,
                encoder,
                config.loader,
                image_size=config.model.vision.image_size,
                state=config.model.state,
            )
            for name, source in data.held_out.items()
            for chosen in _spread(len(source), config.evaluation.frames, config.loader.batch_size)
            for chosen in [chosen[part * size : (part + 1) * size]]
        ]
        self._policies: dict[str, Policy] = {}

    @property
    def names(self) -> list[str]:
        """What is measured, but for the kinds of questions."""
        names = [
            f"held_out/{measure}/{name}"
            for name in self._data.held_out
            for measure in ("loss", "accuracy")
        ]
        for robot in self._data.robots_held_out:
            for name in self._errors.measured(robot):
                names += [f"held_out/error/{name}", f"held_out/illegal/{name}"]
            names.append(f"held_out/illegal/{robot}")
        if sources.TABLETOP in self._data.robots:
            names += [f"success/{split}" for split in self._config.evaluation.splits]
        return names

    def gives(self, name: str) -> bool:
        """Whether a value of this name is measured."""
        if self._data.web_held_out and name.startswith("vqa/"):
            return True
        return name in self.names

    def __call__(self, params: Any) -> dict[str, float]:
        """Returns `held_out/...`, `success/SPLIT` and `vqa/KIND`.

        The first are `loss/SOURCE`, `accuracy/SOURCE` and `ActionErrors.metrics`.
        """
        sums = [
            self._measure(params, sharding.place(batch, self._model.mesh))
            for batch in self._batches
        ]
        values = {f"held_out/{name}": value for name, value in self._means(sums).items()}
        params = peers.local(params)
        if peers.is_first():
            values |= self._play(params)
        return peers.gather("measured", values)[0]

    def _play(self, params: Any) -> dict[str, float]:
        """Lets the policies act and answer, in this process alone."""
        config = self._config
        if not self._policies:
            self._policies = parts.make_policies(config, self._encoder, self._model, params)
        else:
            for policy in self._policies.values():
                policy.load(params)
        played = evaluation.quick(config, self._policies)
        rates = evaluation.ask(config, self._policies, self._data.web_held_out)
        return {f"success/{split}": rate for split, rate in played.items()} | {
            f"vqa/{kind}": rate.rate for kind, rate in rates.items()
        }

    def _means(self, sums: list[dict[str, Any]]) -> dict[str, float]:
        if not sums:
            return {}
        sums = jax.device_get(sums)
        total = {name: np.sum([batch[name] for batch in sums], axis=0) for name in sums[0]}
        return loss.source_metrics([total], self._data.names) | self._errors.metrics(total)


def _spread(length: int, count: int, size: int) -> list[list[int]]:
    """Returns about `count` indices below `length`, evenly spread, in batches of `size`."""
    batches = max(count // size, 1)
    indices = [i * length // (batches * size) for i in range(batches * size)]
    return [indices[start : start + size] for start in range(0, len(indices), size)]

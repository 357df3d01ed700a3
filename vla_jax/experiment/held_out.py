"""The measurements on the way: held-out losses, a few closed-loop episodes, the questions."""

from typing import Any

import jax

from vla_jax.data.loader import collate
from vla_jax.envs.tabletop import world
from vla_jax.eval.rate import Rate
from vla_jax.experiment import evaluation, parts
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.sources import Data
from vla_jax.policy.policy import Policy
from vla_jax.runtime import peers, sharding
from vla_jax.tokens.encoder import Encoder
from vla_jax.train import loss


class HeldOut:
    """Measures the parameters of a run in progress.

    Args:
      config: the run.
      data: its datasets.
      encoder: its tokens.
      model: its model.
      measure: the loss function.
    """

    def __init__(
        self, config: RunConfig, data: Data, encoder: Encoder, model: parts.Model, measure: Any
    ):
        self._config, self._data = config, data
        self._encoder, self._model = encoder, model
        self._measure = jax.jit(lambda params, batch: measure(params, batch)[1]["sums"])
        part, parts_in_all = sharding.batch_part(model.mesh)
        size = config.loader.batch_size // parts_in_all
        numbers = {name: number for number, name in enumerate(data.names)}
        self._batches = [
            collate(
                [source.example(i) for i in chosen],
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

    def __call__(self, params: Any) -> dict[str, float]:
        """Returns `held_out/{loss,accuracy}/SOURCE`, `success/SPLIT` and `vqa/KIND`."""
        sums = [
            self._measure(params, sharding.place(batch, self._model.mesh))
            for batch in self._batches
        ]
        losses = loss.source_metrics(jax.device_get(sums), self._data.names) if sums else {}
        values = {f"held_out/{name}": value for name, value in losses.items()}
        params = peers.local(params)
        if peers.is_first():
            values |= self._play(params)
        peers.wait("measured")
        return values

    def _play(self, params: Any) -> dict[str, float]:
        """Lets the policies act and answer, in this process alone."""
        config, values = self._config, {}
        if not self._policies:
            self._policies = parts.make_policies(config, self._encoder, self._model, params)
        else:
            for policy in self._policies.values():
                policy.load(params)
        if (policy := evaluation.tabletop_policy(self._policies)) is not None:
            for split in world.SPLITS:
                outcomes = evaluation.play(config, policy, split, config.evaluation.quick_episodes)
                values[f"success/{split}"] = Rate.of(outcome.success for outcome in outcomes).rate
        rates = evaluation.ask(config, self._policies, self._data.web_held_out)
        return values | {f"vqa/{kind}": rate.rate for kind, rate in rates.items()}


def _spread(length: int, count: int, size: int) -> list[list[int]]:
    """Returns about `count` indices below `length`, evenly spread, in batches of `size`."""
    batches = max(count // size, 1)
    indices = [i * length // (batches * size) for i in range(batches * size)]
    return [indices[start : start + size] for start in range(0, len(indices), size)]

"""The measurements on the way: held-out losses, a few closed-loop episodes, the questions."""

from typing import Any

import jax

from vla_jax.data.loader import collate
from vla_jax.envs.tabletop import world
from vla_jax.eval import vqa
from vla_jax.eval.rate import Rate
from vla_jax.experiment import evaluation, parts
from vla_jax.experiment.config import RunConfig
from vla_jax.policy.policy import Policy
from vla_jax.runtime import sharding
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
        self,
        config: RunConfig,
        data: parts.Data,
        encoder: Encoder,
        model: parts.Model,
        measure: Any,
    ):
        self._config, self._data = config, data
        self._encoder, self._model = encoder, model
        self._measure = jax.jit(lambda params, batch: measure(params, batch)[1])
        size = config.loader.batch_size
        self._batches = [
            collate([source.frame(i) for i in chosen], [number] * size, encoder)
            for number, source in enumerate((data.robot_held_out, data.web_held_out))
            for chosen in _spread(len(source), config.evaluation.frames, size)
        ]
        self._policy: Policy | None = None

    def __call__(self, params: Any) -> dict[str, float]:
        """Returns `held_out/{loss,accuracy}/SOURCE`, `success/SPLIT` and `vqa/KIND`."""
        config, data = self._config, self._data
        sums = [
            self._measure(params, sharding.place(batch, self._model.mesh))
            for batch in self._batches
        ]
        losses = loss.source_metrics(jax.device_get(sums), parts.SOURCES)
        values = {f"held_out/{name}": value for name, value in losses.items()}
        if self._policy is None:
            self._policy = parts.make_policy(config, self._encoder, self._model, params)
        else:
            self._policy.load(params)
        for split in world.SPLITS:
            outcomes = evaluation.play(
                config, self._policy, split, config.evaluation.quick_episodes
            )
            values[f"success/{split}"] = Rate.of(outcome.success for outcome in outcomes).rate
        answers = vqa.answer_all(self._policy, data.web_held_out, config.evaluation.questions)
        rates = vqa.rates(answers, locations=config.tokenizer.locations)
        return values | {f"vqa/{kind}": rate.rate for kind, rate in rates.items()}


def _spread(length: int, count: int, size: int) -> list[list[int]]:
    """Returns about `count` indices below `length`, evenly spread, in batches of `size`."""
    batches = max(count // size, 1)
    indices = [i * length // (batches * size) for i in range(batches * size)]
    return [indices[start : start + size] for start in range(0, len(indices), size)]

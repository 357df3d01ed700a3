"""What a run starts from: nothing, a released checkpoint, or the parameters of another run."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax

from vla_jax.core import config as config_lib
from vla_jax.core import trees
from vla_jax.core.errors import UserError
from vla_jax.experiment import frozen, pretraining
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.model import Model
from vla_jax.experiment.workdir import Workdir
from vla_jax.models.pretrained import PREFIXES, Parts, Weights
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.runtime.checkpoint import Checkpoints

# What computes the same model otherwise.
_FREE = re.compile(r"config\.(dtype|param_dtype|remat|unroll|backend)")


class RunWeights:
    """The newest parameters of a run, adapters merged, in the place of released `Weights`.

    Args:
      path: its workdir.

    Raises:
      UserError: it has no tokens or no checkpoint yet.
    """

    def __init__(self, path: str):
        self._workdir = Workdir(path)
        self._config = self._workdir.config()
        encoder = self._workdir.load_encoder()
        if encoder is None or not self._workdir.checkpoints.is_dir():
            raise UserError(
                f"config.pretrained.path: {path}",
                expected="a run with a checkpoint",
                found="none yet",
                fix="Train it until its first checkpoint (config.checkpoint.every)",
            )
        self.vocabulary = encoder.vocabulary
        self.tokenizer = encoder.tokenizer
        self.kept_rows = encoder.vocabulary

    def check(self, model: VLMConfig) -> None:
        """Refuses another model.

        Raises:
          UserError: names the fields that differ.
        """
        changes = config_lib.differences(
            config_lib.to_json(self._config.model), config_lib.to_json(model)
        )
        others = [change for change in changes if not _FREE.match(change)]
        if others:
            raise UserError(
                f"config.model is not the model of {self._workdir.path}: {'; '.join(others)}",
                fix="Take the model of that run, or start from another one",
            )

    def read(
        self, config: VLMConfig, abstract: Mapping[str, jax.ShapeDtypeStruct], parts: Parts
    ) -> dict[str, jax.Array]:
        """Reads parameters by name, see `Weights.read`; the first of `abstract` has the mesh."""
        sharding: Any = next(iter(abstract.values())).sharding
        run = Model(dataclasses.replace(self._config, model=config), self.vocabulary, sharding.mesh)
        state = run.abstract_state()
        with Checkpoints(self._workdir.checkpoints) as checkpoints:
            trained = checkpoints.restore_params(state.params)
        merged = run.merged(trained, frozen.restore(self._workdir.frozen, state.frozen))
        named = {
            name: leaf
            for name, leaf in trees.named_leaves(merged).items()
            if name.startswith(PREFIXES[parts]) or parts == "all"
        }
        return {name: leaf.astype(abstract[name].dtype) for name, leaf in named.items()}


def open_weights(config: RunConfig) -> Weights | RunWeights | None:
    """Opens what the run starts from and compares it with the model; reads no array.

    Returns:
      None for a run that starts from nothing.

    Raises:
      UserError: it is damaged, unfinished, or another model.
    """
    path = config.pretrained.path
    if path is None or not (pathlib.Path(path) / "checkpoints").is_dir():
        return pretraining.open_weights(config)
    weights = RunWeights(path)
    weights.check(config.model)
    return weights

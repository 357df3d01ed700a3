"""Opens a run, finished or still training, for those who use it: evaluation, acting, export."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from vla_jax.core.errors import UserError
from vla_jax.experiment import frozen, parts
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.workdir import Workdir
from vla_jax.policy.policy import Policy
from vla_jax.runtime import mesh as mesh_lib
from vla_jax.runtime.checkpoint import Checkpoints
from vla_jax.tokens.encoder import Encoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run as its newest checkpoint left it.

    Attributes:
      config: its configuration.
      encoder: its tokens.
      model: its structure.
      policies: its policy for each robot, parameters loaded; adapters are merged.
      trained: what was trained alone: all parameters, some, or adapters.
      step: updates behind the parameters.
      seconds: training time behind them.
    """

    config: RunConfig
    encoder: Encoder
    model: parts.Model
    policies: Mapping[str, Policy]
    trained: Any
    step: int
    seconds: float

    def policy(self, robot: str | None = None) -> Policy:
        """Returns the policy of the only robot there is, or of the one named.

        Raises:
          UserError: there is no such robot, or there are several and none is named.
        """
        return self.policies[self.encoder.robot(robot)]


def open_run(workdir: Workdir, config: RunConfig | None = None) -> Run:
    """Reads configuration, tokens and the newest parameters; nothing is written.

    Args:
      workdir: the run's directory.
      config: what to open it with, if not as it was trained (another dtype, say).

    Raises:
      UserError: there is no run, or it has no checkpoint yet.
    """
    config = workdir.config() if config is None else config
    encoder = workdir.load_encoder()
    if encoder is None or not workdir.checkpoints.is_dir():
        raise _no_checkpoint(workdir)
    model = parts.Model(config, encoder.vocabulary, _mesh(config.mesh))
    with Checkpoints(workdir.checkpoints) as checkpoints:
        step = checkpoints.latest_step()
        if step is None:
            raise _no_checkpoint(workdir)
        abstract = model.abstract_state()
        trained = checkpoints.restore_params(abstract.params, step)
        seconds = checkpoints.loader_state(step)["seconds"]
    untrained = frozen.restore(workdir.frozen, abstract.frozen)
    return Run(
        config=config,
        encoder=encoder,
        model=model,
        policies=parts.make_policies(config, encoder, model, model.merged(trained, untrained)),
        trained=trained,
        step=step,
        seconds=seconds,
    )


def _no_checkpoint(workdir: Workdir) -> UserError:
    return UserError(
        f"run {workdir.path}",
        expected="a checkpoint",
        found="none yet",
        fix="Train it until its first checkpoint (config.checkpoint.every)",
    )


def _mesh(config: mesh_lib.MeshConfig) -> jax.sharding.Mesh:
    """One device, unless the run split its parameters and there are several here, too."""
    devices = jax.devices()
    if len(devices) > 1 and (config.fsdp, config.tensor) != (1, 1):
        return mesh_lib.make_mesh(config)
    return mesh_lib.make_mesh(mesh_lib.MeshConfig(), devices[:1])

"""The Language-Table simulator's own modules, imported from a clone of its repository.

Of TensorFlow they use a file function that is never called here, and of tf_agents a base class and
a named tuple. While they are imported, small stand-ins take those places, so that neither has to be
installed or loaded.

Source: https://github.com/google-research/language-table (language_table/environments).
"""

import collections
import contextlib
import functools
import importlib
import io
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

from vla_jax.core import packages

INSTALL = (
    "Clone github.com/google-research/language-table, add its folder to PYTHONPATH, and:"
    " pip install 'vla_jax[language-table]'"
)
_ROOT = "language_table.environments"
_REWARDS = {
    "blocktoblock": ("block2block", "BlockToBlockReward"),
    "blocktoabsolutelocation": ("block2absolutelocation", "BlockToAbsoluteLocationReward"),
    "blocktoblockrelativelocation": (
        "block2block_relative_location",
        "BlockToBlockRelativeLocationReward",
    ),
    "blocktorelativelocation": ("block2relativelocation", "BlockToRelativeLocationReward"),
    "separate": ("separate_blocks", "SeparateBlocksReward"),
}
FAMILIES = tuple(_REWARDS)


class Source:
    """What is used of it.

    Attributes:
      simulator: the class LanguageTable.
      eight_blocks: the variant with all eight blocks, which is evaluated.
      oracle: the class of the oracle that plans around blocks.
      rewards: family -> the class that sets and judges its tasks.
    """

    def __init__(self, modules: Mapping[str, Any]):
        """Takes them from the imported modules, by name below `language_table.environments`."""
        self.simulator = modules["language_table"].LanguageTable
        self.eight_blocks = modules["blocks"].LanguageTableBlockVariants.BLOCK_8
        self.oracle = modules[
            "oracles.push_oracle_rrt_slowdown"
        ].ObstacleOrientedPushOracleBoard2dRRT
        self.rewards = {
            family: getattr(modules[f"rewards.{module}"], name)
            for family, (module, name) in _REWARDS.items()
        }


@functools.cache
def load() -> Source:
    """Imports the simulator.

    Raises:
      UserError: a package of it is missing; says how to install it.
    """
    names = (
        *("language_table", "blocks", "oracles.push_oracle_rrt_slowdown"),
        *(f"rewards.{module}" for module, _ in _REWARDS.values()),
    )
    purpose = "the environment language_table"
    # The old gym says on import what became of it, and so would every process.
    with contextlib.redirect_stderr(io.StringIO()):
        for package in ("pybullet", "gym", "language_table.environments"):
            packages.load(package, purpose, fix=INSTALL)
    with _stand_ins():
        return Source({name: importlib.import_module(f"{_ROOT}.{name}") for name in names})


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """Puts modules in the places of tensorflow and tf_agents, and takes them away again."""
    made = {
        name: types.ModuleType(name)
        for name in (
            *("tensorflow", "tf_agents", "tf_agents.policies", "tf_agents.policies.py_policy"),
            *("tf_agents.trajectories", "tf_agents.trajectories.policy_step"),
            "tf_agents.trajectories.time_step",
        )
    }
    for name, module in made.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(made[parent], child, module)
    vars(made["tf_agents.policies.py_policy"])["PyPolicy"] = _PyPolicy
    vars(made["tf_agents.trajectories.policy_step"])["PolicyStep"] = collections.namedtuple(
        "PolicyStep", ["action"]
    )
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


class _PyPolicy:
    """The base class of the oracle, which uses nothing of it."""

    def __init__(self, time_step_spec: Any, action_spec: Any):
        del time_step_spec, action_spec

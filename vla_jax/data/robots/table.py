"""The explicit table of robot datasets: one file each, one line here."""

import difflib
import importlib

from vla_jax.core.errors import UserError
from vla_jax.data.robots import (
    aloha,
    bc_z,
    berkeley_autolab_ur5,
    berkeley_cable_routing,
    bridge_orig,
    droid,
    fractal20220817_data,
    jaco_play,
    kuka,
    language_table,
    libero,
    nyu_door_opening_surprising_effectiveness,
    roboturk,
    taco_play,
    toto,
    viola,
)
from vla_jax.data.robots.robot import Robot
from vla_jax.data.robots.tabletop import TABLETOP

_ALL = (
    TABLETOP,
    aloha.ROBOT,
    bc_z.ROBOT,
    berkeley_autolab_ur5.ROBOT,
    berkeley_cable_routing.ROBOT,
    bridge_orig.ROBOT,
    bridge_orig.BRIDGE_DATASET,
    droid.ROBOT,
    fractal20220817_data.ROBOT,
    jaco_play.ROBOT,
    kuka.ROBOT,
    language_table.ROBOT,
    *libero.ROBOTS,
    nyu_door_opening_surprising_effectiveness.ROBOT,
    roboturk.ROBOT,
    taco_play.ROBOT,
    toto.ROBOT,
    viola.ROBOT,
)

ROBOTS: dict[str, Robot] = {robot.name: robot for robot in _ALL}


def find(name: str) -> Robot:
    """Returns the adapter that a config names.

    Args:
      name: a dataset of the table, or `package.module:NAME` for an adapter in the user's own
        package; NAME is a Robot or a function without arguments that returns one.

    Raises:
      UserError: no such dataset, module or name, or it is not a Robot.
    """
    if ":" in name:
        return _load(name)
    if name not in ROBOTS:
        near = difflib.get_close_matches(name, ROBOTS, n=1)
        raise UserError(
            f"robot {name!r}: not in the table of robots",
            expected=f"one of {', '.join(sorted(ROBOTS))}, or package.module:NAME",
            fix=f"Did you mean {near[0]!r}?" if near else "CONTRIBUTING.md says how to add a robot",
        )
    return ROBOTS[name]


def _load(path: str) -> Robot:
    """Imports `package.module:NAME`; a function is called."""
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"robot {path!r}: {error}",
            expected="a module that Python can import",
            fix="Install the package or add its folder to PYTHONPATH",
        ) from error
    if not hasattr(module, attribute):
        near = difflib.get_close_matches(attribute, dir(module), n=1)
        raise UserError(
            f"robot {path!r}: the module {module_name} has no {attribute!r}",
            fix=f"Did you mean {near[0]!r}?" if near else None,
        )
    found = getattr(module, attribute)
    robot = found() if callable(found) else found
    if not isinstance(robot, Robot):
        raise UserError(
            f"robot {path!r}: not an adapter",
            expected="a Robot, or a function without arguments that returns one",
            found=type(robot).__name__,
        )
    return robot

"""The explicit table of robot datasets: one file each, one line here."""

from vla_jax.core import user_code
from vla_jax.core.errors import UserError, listed, nearest
from vla_jax.data.robots import (
    aloha,
    austin_buds,
    austin_sailor,
    austin_sirius,
    bc_z,
    berkeley_autolab_ur5,
    berkeley_cable_routing,
    berkeley_fanuc_manipulation,
    bridge_orig,
    cmu_stretch,
    dlr_edan_shared_control,
    dobbe,
    droid,
    fmb_dataset,
    fractal20220817_data,
    furniture_bench,
    iamlab_cmu_pickup_insert,
    jaco_play,
    kuka,
    language_table,
    libero,
    metaworld,
    nyu_door_opening_surprising_effectiveness,
    nyu_franka_play,
    roboturk,
    stanford_hydra,
    taco_play,
    toto,
    ucsd_kitchen,
    utaustin_mutex,
    viola,
)
from vla_jax.data.robots.robot import Robot
from vla_jax.data.robots.tabletop import TABLETOP

_ALL = (
    TABLETOP,
    aloha.ROBOT,
    austin_buds.ROBOT,
    austin_sailor.ROBOT,
    austin_sirius.ROBOT,
    bc_z.ROBOT,
    berkeley_autolab_ur5.ROBOT,
    berkeley_cable_routing.ROBOT,
    berkeley_fanuc_manipulation.ROBOT,
    bridge_orig.ROBOT,
    bridge_orig.BRIDGE_DATASET,
    cmu_stretch.ROBOT,
    dlr_edan_shared_control.ROBOT,
    dobbe.ROBOT,
    droid.ROBOT,
    fmb_dataset.ROBOT,
    fractal20220817_data.ROBOT,
    furniture_bench.ROBOT,
    iamlab_cmu_pickup_insert.ROBOT,
    jaco_play.ROBOT,
    kuka.ROBOT,
    language_table.ROBOT,
    language_table.SIMULATED,
    *libero.ROBOTS,
    metaworld.ROBOT,
    nyu_door_opening_surprising_effectiveness.ROBOT,
    nyu_franka_play.ROBOT,
    roboturk.ROBOT,
    stanford_hydra.ROBOT,
    taco_play.ROBOT,
    toto.ROBOT,
    ucsd_kitchen.ROBOT,
    utaustin_mutex.ROBOT,
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
        raise UserError(
            f"robot {name!r}: not in the table of robots",
            expected=f"one of {listed(sorted(ROBOTS))}, or package.module:NAME",
            fix=nearest(name, list(ROBOTS)) or "CONTRIBUTING.md says how to add a robot",
        )
    return ROBOTS[name]


def _load(path: str) -> Robot:
    """Imports `package.module:NAME`; a function is called."""
    found = user_code.load(path, "robot")
    with user_code.blamed(f"robot {path!r}: the call of {path.partition(':')[2]}"):
        robot = found() if callable(found) else found
    if not isinstance(robot, Robot):
        raise UserError(
            f"robot {path!r}: not an adapter",
            expected="a Robot, or a function without arguments that returns one",
            found=type(robot).__name__,
        )
    return robot

"""The explicit table of robot datasets: one file each, one line here."""

from vla_jax.data.robots.robot import Robot
from vla_jax.data.robots.tabletop import TABLETOP

ROBOTS: dict[str, Robot] = {robot.name: robot for robot in (TABLETOP,)}

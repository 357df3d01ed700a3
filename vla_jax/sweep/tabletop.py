"""What the studies of the tabletop share: the web checkpoint they start from, what they measure."""

from vla_jax.envs.tabletop import world
from vla_jax.sweep.sweep import Arm

# What pictures show of `measures`.
DRAWN = ("seen", "unseen", "VQA", *world.SPLITS[1:])

_KINDS = ("locate", "extreme", "colour", "shape", "relation", "symbol")


def config(size: str) -> str:
    """Returns the config of a size of configs/tabletop_study.py."""
    return f"configs/tabletop_study.py:{size}"


def web(size: str) -> Arm:
    """Returns the pre-training on the web's questions alone; its one run serves every seed."""
    return Arm(
        name=f"web_{size}",
        config=config(size),
        set={"mixture.robot_share": 0.0},
        seeds=(0,),
    )


def measures() -> dict[str, str | tuple[str, ...]]:
    """Returns what is measured of a run that was evaluated on all splits.

    Returns:
      `seen`; `unseen`, the mean of all other splits; `VQA`, the mean of the kinds of questions that
      configs/tabletop_study.py asks; then every split and kind alone. All are shares, 0..1.
    """
    unseen = world.SPLITS[1:]
    return {
        "seen": "success/seen",
        "unseen": tuple(f"success/{split}" for split in unseen),
        "VQA": tuple(f"vqa/{kind}" for kind in _KINDS),
        **{split: f"success/{split}" for split in unseen},
        **{f"VQA {kind}": f"vqa/{kind}" for kind in _KINDS},
    }

"""Does what a model has learned from the web reach its actions? The shape of RT-2's table 6.

From scratch on robot data, pre-trained on the web and fine-tuned on robot data, pre-trained and
co-fine-tuned on both; the first two once with the robot examples of the third and once with its
compute.
"""

from vla_jax.sweep import tabletop
from vla_jax.sweep.sweep import Arm, Needs, Smoke, Sweep

SIZES = ("micro", "tiny")
# With three seeds the intervals of these overlapped; three more were then run.
MORE = ("tiny_scratch", "tiny_finetune", "tiny_cofinetune")
# Half of a batch of 32 are robot examples where both are trained on.
ROBOT = {"mixture.robot_share": 1.0}
SAME_EXAMPLES = {**ROBOT, "loader.batch_size": 16}
BOTH = {"mixture.robot_share": 0.5}


def arms_of(size: str) -> tuple[Arm, ...]:
    """Returns the five arms of one size."""
    web = {"pretrained.path": Needs(f"web_{size}")}
    arms = {
        f"{size}_scratch": SAME_EXAMPLES,
        f"{size}_scratch_2x": ROBOT,
        f"{size}_finetune": SAME_EXAMPLES | web,
        f"{size}_finetune_2x": ROBOT | web,
        f"{size}_cofinetune": BOTH | web,
    }
    config = tabletop.config(size)
    return tuple(
        Arm(name=name, set=set_, config=config, seeds=tuple(range(6)) if name in MORE else None)
        for name, set_ in arms.items()
    )


SWEEP = Sweep(
    config=tabletop.config("tiny"),
    prerequisites=tuple(map(tabletop.web, SIZES)),
    baselines=tuple(f"web_{size}" for size in SIZES),
    arms=tuple(arm for size in SIZES for arm in arms_of(size)),
    seeds=(0, 1, 2),
    measures=tabletop.measures(),
    drawn=tabletop.DRAWN,
    reference="tiny_cofinetune",
    smoke=Smoke(
        config="configs/tabletop_study.py:smoke",
        set={"loop.steps": 4, "checkpoint.every": 2},
        arms=("tiny_finetune", "tiny_cofinetune"),
    ),
)

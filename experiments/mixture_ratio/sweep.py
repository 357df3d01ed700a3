"""How much of a batch should be robot data? Control against what is kept of the web, after RT-2.

Every arm starts from the same web checkpoint and takes as many updates: of batches as large as each
other's (the same compute), or as large as it takes for the same number of robot examples.
"""

from collections.abc import Mapping

from vla_jax.sweep import tabletop
from vla_jax.sweep.sweep import Arm, Needs, Smoke, Sweep

# Robot share -> batch size. With 0.5, the batch of both has 16 robot examples.
SAME_COMPUTE = dict.fromkeys((0.2, 0.33, 0.5, 0.66, 0.8, 1.0), 32)
SAME_ROBOT = {0.66: 24, 0.8: 20, 1.0: 16}  # lower shares would take more compute than 0.5
START = {"pretrained.path": Needs("web_tiny")}


def arms_of(name: str, batch_sizes: Mapping[float, int]) -> tuple[Arm, ...]:
    """Returns an arm per robot share."""
    return tuple(
        Arm(
            name=f"robot_share={share},{name}",
            set={**START, "mixture.robot_share": share, "loader.batch_size": batch_size},
        )
        for share, batch_size in batch_sizes.items()
    )


SWEEP = Sweep(
    config=tabletop.config("tiny"),
    prerequisites=(tabletop.web("tiny"),),
    baselines=("web_tiny",),
    arms=(
        *arms_of("same_compute", SAME_COMPUTE),
        # As much robot data as 0.5 in all, most of it at the end.
        Arm(name="rising", set={**START, "mixture.schedule": ((0, 0.2), (12_000, 0.8))}),
        *arms_of("same_robot", SAME_ROBOT),
    ),
    seeds=(0, 1, 2),
    measures=tabletop.measures(),
    drawn=tabletop.DRAWN,
    reference="robot_share=0.5,same_compute",
    axis="mixture.robot_share",
    pareto=("VQA", "unseen"),
    smoke=Smoke(
        config="configs/tabletop_study.py:smoke",
        set={"loop.steps": 4, "checkpoint.every": 2, "loader.batch_size": 8},
        arms=("robot_share=0.5,same_compute", "rising"),
    ),
)

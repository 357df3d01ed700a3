"""How much of a batch should be robot data? Control against what is kept of the web, after RT-2.

Every arm starts from the same web checkpoint and takes as many updates of as many examples.
"""

from vla_jax.sweep import tabletop
from vla_jax.sweep.sweep import Arm, Needs, Smoke, Sweep

SHARES = (0.2, 0.33, 0.5, 0.66, 0.8, 1.0)
START = {"pretrained.path": Needs("web_tiny")}

SWEEP = Sweep(
    config=tabletop.config("tiny"),
    prerequisites=(tabletop.web("tiny"),),
    baselines=("web_tiny",),
    arms=(
        *(
            Arm(name=f"share_{share}", set={**START, "mixture.robot_share": share})
            for share in SHARES
        ),
        # As much robot data as 0.5 in all, most of it at the end.
        Arm(name="rising", set={**START, "mixture.schedule": ((0, 0.2), (12_000, 0.8))}),
    ),
    seeds=(0, 1, 2),
    measures=tabletop.measures(),
    drawn=tabletop.DRAWN,
    reference="share_0.5",
    axis="mixture.robot_share",
    pareto=("VQA", "unseen"),
    smoke=Smoke(
        config="configs/tabletop_study.py:smoke",
        set={"loop.steps": 4, "checkpoint.every": 2},
        arms=("share_0.5", "rising"),
    ),
)

"""How many bins does an action dimension need, and where should they lie?

Robot data alone, so that nothing but the actions is learned; bins are rows of their own behind the
vocabulary, as there are fewer tokens of places than bins to try.
"""

from vla_jax.sweep import arms, tabletop
from vla_jax.sweep.sweep import Needs, Smoke, Sweep

COUNTS = {"uniform": (16, 32, 64, 128, 256, 512, 1024), "quantile": (16, 64, 256)}
CONTROL = {
    "pretrained.path": Needs("web_tiny"),
    "action_tokens.scheme": "extend",
    "mixture.robot_share": 1.0,
    "loader.batch_size": 16,
    "loop.steps": 3_000,  # control alone is learned in a quarter of what both together take
    "evaluation.splits": ("seen", "new_combination"),
}
MOVING = ("dx", "dy", "gripper")  # no task of the tabletop moves the others

SWEEP = Sweep(
    config=tabletop.config("tiny"),
    prerequisites=(tabletop.web("tiny"),),
    arms=tuple(
        arm
        for kind, counts in COUNTS.items()
        for arm in arms.grid({"bins.count": counts, "bins.kind": (kind,)}, also=CONTROL)
    ),
    seeds=(0, 1, 2),
    measures={
        "seen": "success/seen",
        "new_combination": "success/new_combination",
        **{f"quantisation {name}": f"quantisation/{name}" for name in MOVING},
        **{f"error {name}": f"open_loop/error/{name}" for name in MOVING},
        "token accuracy": "open_loop/token_accuracy",
        "decoding (ms)": "latency/decode_ms",
    },
    reference="count=256,kind=uniform",
    axis="bins.count",
    smoke=Smoke(
        config="configs/tabletop_study.py:smoke",
        set={"loop.steps": 4, "checkpoint.every": 2},
        arms=("count=16,kind=uniform", "count=16,kind=quantile"),
    ),
)

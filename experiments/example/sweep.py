"""How a sweep is written, in some minutes of CPU: which learning rate, from a run made before?"""

from vla_jax.sweep import arms
from vla_jax.sweep.sweep import Arm, Needs, Smoke, Sweep

SWEEP = Sweep(
    config="configs/tabletop.py:smoke",
    # Made once: mostly questions, and the start of every other run.
    prerequisites=(
        Arm(name="web", set={"mixture.robot_share": 0.25, "loop.steps": 100}, seeds=(0,)),
    ),
    arms=arms.grid(
        {"optimizer.learning_rate": (0.0003, 0.001, 0.003)},
        also={"pretrained.path": Needs("web"), "loop.steps": 200},
    ),
    seeds=(0, 1, 2),
    measures={
        "token accuracy": "open_loop/token_accuracy",
        "error in x, y (m)": ("open_loop/error/dx", "open_loop/error/dy"),
        "VQA colour": "vqa/colour",
    },
    set={"checkpoint.every": 50, "loop.eval_every": 1000},
    reference="learning_rate=0.001",
    axis="optimizer.learning_rate",
    smoke=Smoke(set={"loop.steps": 4, "checkpoint.every": 2}, arms=("learning_rate=0.001",)),
)

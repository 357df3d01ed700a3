"""How a sweep is written, in a few minutes of CPU: does the size of the batch matter?"""

from vla_jax.sweep import arms
from vla_jax.sweep.sweep import Smoke, Sweep

SWEEP = Sweep(
    config="configs/tabletop.py:smoke",
    arms=arms.grid({"loader.batch_size": (8, 16, 32)}),
    seeds=(0, 1, 2),
    measures={
        "token accuracy": "open_loop/token_accuracy",
        "error in x, y (m)": ("open_loop/error/dx", "open_loop/error/dy"),
        "VQA colour": "vqa/colour",
    },
    set={"loop.steps": 60, "checkpoint.every": 20},
    reference="batch_size=8",
    axis="loader.batch_size",
    smoke=Smoke(set={"loop.steps": 4, "checkpoint.every": 2}, arms=("batch_size=8",)),
)

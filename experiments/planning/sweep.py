"""Does a policy that says its plan first do better where an instruction has two stages?

Robot data alone. Both arms see the same demonstrations, in the same order, and are evaluated on the
same episodes; one also writes what the expert was about to do, at every step, before it acts.
"""

from vla_jax.sweep.sweep import Arm, Smoke, Sweep

SWEEP = Sweep(
    config="configs/tabletop_planning.py:planned",
    arms=(
        # The variant `direct`, in fields: the smoke form takes another config for both arms.
        Arm(name="direct", set={"prompts.plan": "none", "sequence.suffix": 9}),
        Arm(name="planned"),
    ),
    seeds=(0, 1, 2),
    set={
        "mixture.robot_share": 1.0,
        "loader.batch_size": 16,
        "loop.steps": 12_000,
        "loop.eval_every": 1_000_000,
        "evaluation.film": 0,
        "mesh.cpu_devices": 1,
    },
    measures={
        "two_stage": "success/seen/two_stage",
        "pick": "success/seen/pick",
        "side": "success/seen/side",
        "seen": "success/seen",
        "new_combination": "success/new_combination",
        "token accuracy": "open_loop/token_accuracy",
        "decoding (ms)": "latency/decode_ms",
    },
    reference="direct",
    smoke=Smoke(
        config="configs/tabletop_planning.py:smoke",
        set={"loop.steps": 4, "checkpoint.every": 2},
    ),
)

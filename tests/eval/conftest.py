"""Records of evaluations that nobody played."""

import pytest

from vla_jax.eval.record import Record


@pytest.fixture
def episodes():
    """Makes the records of a run from successes per split."""

    def make(start="s", **successes):
        return [
            Record(
                split=split,
                seed=n,
                options={"task": ("pick", "side")[n % 2]},
                start=f"{start}{n}",
                instruction=f"do {n}",
                success=bool(success),
                steps=5 + n,
                info={"wrong_block": not success},
            )
            for split, values in successes.items()
            for n, success in enumerate(values)
        ]

    return make

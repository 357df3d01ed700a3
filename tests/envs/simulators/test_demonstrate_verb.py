"""`vla-jax demonstrate`, on a small simulator with Meta-World's interface."""

import pytest

from vla_jax.cli import demonstrate
from vla_jax.core.errors import UserError


def test_it_writes_the_dataset_and_says_what_was_left_out(fakes, tmp_path, capsys):
    demonstrate.main(
        [
            *("--env=metaworld", "--tasks=reach-v3,push-v3,sweep-v3", f"--out={tmp_path}"),
            *("--episodes=6", "--image-size=16", "--workers=1"),
        ]
    )
    written = tmp_path / "metaworld/1.0.0"
    assert (written / "dataset_info.json").exists()
    shown = "".join(capsys.readouterr().out.split())
    assert "theexpertfailed:sweep-v3" in shown
    assert f"vla-jaxdoctor{written}" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"vla-jax demonstrate: expected --env=\.\.\., found none"),
        (["--env=metaworld"], r"expected --out=\.\.\., found none"),
        (["--env=metawold", "--out=x"], r"environment 'metawold'.*nearest is 'metaworld'"),
        (["--env=metaworld", "--out=x", "--split=mt5"], r"no split 'mt5'"),
        (["--env=metaworld", "--out=x", "--tasks=reach"], r"no task 'reach'"),
        (
            ["--env=metaworld", "--out=x", "--noise=2"],
            r"flag --noise=2: 2.0 is not a number in the range \[0.0, 1.0\]",
        ),
    ],
)
def test_a_mistake_is_answered_before_anything_is_played(arguments, message):
    with pytest.raises(UserError, match=message):
        demonstrate.main(arguments)

import dataclasses
import json

import numpy as np
import pytest

from vla_jax.actions.spec import ActionSpec
from vla_jax.core.errors import UserError
from vla_jax.data.robots.table import ROBOTS
from vla_jax.envs.tabletop.env import TabletopEnv

SPEC = ActionSpec(
    names=("terminate", "dx"),
    units=("0..1", "metres per step"),
    low=(0.0, -0.1),
    high=(1.0, 0.1),
    discrete=(True, False),
    frame="base",
    gripper="none",
    control_hz=5.0,
)


def test_a_spec_survives_a_json_file():
    again = ActionSpec.from_json(json.loads(json.dumps(SPEC.to_json())))
    assert again == SPEC
    assert hash(again) == hash(SPEC)
    assert SPEC.size == 2


@pytest.mark.parametrize("field", ["names", "units", "low", "high", "discrete"])
def test_fields_of_different_length_are_refused(field):
    with pytest.raises(UserError, match=r"one entry per dimension, found lengths \[1, 2\]"):
        dataclasses.replace(SPEC, **{field: getattr(SPEC, field)[:1]})


def test_bounds_the_wrong_way_round_are_refused_by_name():
    with pytest.raises(UserError, match=r"dimension 'dx': expected low <= high, found low 0\.2"):
        dataclasses.replace(SPEC, low=(0.0, 0.2))


def test_the_tabletop_adapter_says_what_the_environment_says():
    space, spec = TabletopEnv().action_space, ROBOTS["tabletop"].spec
    np.testing.assert_allclose(space.low, spec.low)
    np.testing.assert_allclose(space.high, spec.high)

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vla_jax.core import trees
from vla_jax.train.state import TrainState


def test_a_new_state_is_before_the_first_update_and_is_a_pytree():
    params = {"a": jnp.ones((2, 3)), "b": {"c": jnp.zeros(4)}}
    state = TrainState.create(params, optax.adam(1e-3))
    assert int(state.step) == 0
    assert state.step.dtype == jnp.int32
    names = trees.named_leaves(state)
    assert {"step", "params/a", "params/b/c"} <= set(names)
    assert sum(name.startswith("optimizer") for name in names) == 5
    assert TrainState.of(state.saved(), {}) == state
    doubled = jax.tree.map(lambda x: 2 * x, state)
    assert isinstance(doubled, TrainState)
    np.testing.assert_array_equal(doubled.params["a"], 2 * params["a"])


def test_a_state_with_an_average_acts_with_it_and_is_saved_whole():
    params, frozen = {"a": jnp.ones(2)}, {"b": jnp.ones(3)}
    state = TrainState.create(params, optax.sgd(1e-3), frozen, averaged=True)
    state = dataclasses.replace(state, ema={"a": jnp.zeros(2)})
    saved = state.saved()
    np.testing.assert_array_equal(saved["params"]["a"], np.zeros(2))
    assert "b" not in trees.named_leaves(saved["params"])
    again = TrainState.of(saved, state.frozen)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, again, state)

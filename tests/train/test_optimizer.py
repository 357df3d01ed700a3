import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vla_jax.core.errors import UserError
from vla_jax.train.optimizer import GroupConfig, OptimizerConfig, make_optimizer, make_schedules
from vla_jax.train.schedule import ScheduleConfig

PARAMS = {
    "decoder": {
        "embedding": jnp.ones((4, 3)),
        "blocks": {"attention_norm": jnp.ones((2, 3)), "query": jnp.ones((2, 3, 2))},
        "norm": jnp.ones(3),
    },
    "vision": {"norm_scale": jnp.ones(3), "up_bias": jnp.ones(3), "stem0": jnp.ones((3, 3))},
}
AXES = {
    "decoder": {
        "embedding": ("vocab", "embed"),
        "blocks": {"attention_norm": ("layers", "norm"), "query": ("layers", "embed", "mlp")},
        "norm": ("norm",),
    },
    "vision": {"norm_scale": ("norm",), "up_bias": ("mlp",), "stem0": ("patch", "embed")},
}


def rates(steps, **changes):
    config = OptimizerConfig(learning_rate=0.5, schedule=ScheduleConfig(**changes))
    schedule = make_schedules(config, steps)[""]
    return [float(schedule(step)) for step in range(steps)]


@pytest.mark.parametrize("kind", ["constant", "cosine", "linear"])
def test_warm_up_rises_to_the_peak_and_its_first_step_counts(kind):
    values = rates(100, warmup_steps=10, kind=kind)
    np.testing.assert_allclose(values[:10], 0.5 * np.arange(1, 11) / 10, rtol=1e-5)
    assert max(values) == pytest.approx(0.5)


@pytest.mark.parametrize("warmup", [0, 1, 10])
@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_decay_ends_at_the_final_fraction_on_the_last_step(kind, warmup):
    values = rates(60, warmup_steps=warmup, kind=kind, final_fraction=0.1)
    assert values[warmup] == pytest.approx(0.5)
    assert values[-1] == pytest.approx(0.05, rel=1e-4)
    assert (np.diff(values[warmup:]) < 0).all()
    middle = values[warmup + (59 - warmup) // 2]
    assert middle == pytest.approx(0.275, rel=0.06)


def test_a_constant_rate_stays():
    assert rates(5, kind="constant") == pytest.approx([0.5] * 5)


def test_a_run_shorter_than_its_warm_up_reaches_the_peak():
    assert rates(4, warmup_steps=100, kind="cosine")[-1] == pytest.approx(0.5)


@pytest.mark.parametrize("rule", ["adamw", "muon"])
def test_weight_decay_skips_norms_and_biases(rule):
    config = OptimizerConfig(rule=rule, learning_rate=0.1, weight_decay=0.5)
    optimizer = make_optimizer(config, 10, PARAMS, AXES)
    nothing = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = optimizer.update(nothing, optimizer.init(PARAMS), PARAMS)
    after = jax.tree.map(lambda x: float(x.ravel()[0]), optax.apply_updates(PARAMS, updates))
    assert after == {
        "decoder": {
            "embedding": pytest.approx(0.95),
            "blocks": {"attention_norm": 1.0, "query": pytest.approx(0.95)},
            "norm": 1.0,
        },
        "vision": {"norm_scale": 1.0, "up_bias": 1.0, "stem0": pytest.approx(0.95)},
    }


@pytest.mark.parametrize(("size", "scale"), [(10.0, 0.2), (0.01, 1.0)])
def test_gradients_are_clipped_by_their_global_norm(size, scale):
    config = OptimizerConfig(clip_norm=2.0, b1=0.9)
    optimizer = make_optimizer(config, 10, PARAMS, AXES)
    gradient = jax.tree.map(jnp.ones_like, PARAMS)
    gradient = jax.tree.map(lambda g: g * (size / optax.tree.norm(gradient)), gradient)
    _, state = optimizer.update(gradient, optimizer.init(PARAMS), PARAMS)
    moment = optax.tree_utils.tree_get(state, "mu")
    assert float(optax.tree.norm(moment)) == pytest.approx(0.1 * size * scale, rel=1e-4)


def test_the_first_update_has_the_size_of_the_rate():
    config = OptimizerConfig(learning_rate=0.1, schedule=ScheduleConfig(warmup_steps=4))
    optimizer = make_optimizer(config, 10, PARAMS, AXES)
    gradient = jax.tree.map(lambda p: -jnp.ones_like(p), PARAMS)
    updates, _ = optimizer.update(gradient, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["decoder"]["norm"], [0.025] * 3, rtol=1e-4)


def first_update(params, axes, gradient):
    config = OptimizerConfig(rule="muon", learning_rate=1.0, clip_norm=1e9)
    optimizer = make_optimizer(config, 10, params, axes)
    return optimizer.update(gradient, optimizer.init(params), params)[0]


@pytest.mark.parametrize(
    "axes",
    [
        ("embed", "mlp"),
        ("patch", "embed"),
        ("embed", "heads", "head_dim"),
        ("embed", "kv", "head_dim"),
        ("heads", "head_dim", "embed"),
    ],
)
def test_muon_makes_every_matrix_orthogonal_at_the_size_of_adamw(axes):
    sizes = {"embed": 12, "mlp": 20, "patch": 7, "heads": 3, "kv": 3, "head_dim": 5}
    shape = (2, *(sizes[axis] for axis in axes))  # two layers
    gradient = {"blocks": {"kernel": jax.random.normal(jax.random.key(0), shape)}}
    gradient |= {"embedding": jnp.ones((4, 3)), "norm": jnp.ones(3)}
    names = {"blocks": {"kernel": ("layers", *axes)}}
    names |= {"embedding": ("vocab", "embed"), "norm": ("norm",)}
    found = first_update(gradient, names, gradient)["blocks"]["kernel"]
    heads = [axis + 1 for axis, name in enumerate(axes) if name in ("heads", "kv")]
    matrices = np.moveaxis(found, heads, range(1, 1 + len(heads)))
    values = np.linalg.svd(matrices, compute_uv=False)
    # Five steps of Newton-Schulz bring singular values near 1, not to it.
    size = 0.2 * np.sqrt(max(matrices.shape[-2:]))
    assert (values > 0.5 * size).all()
    assert (values < 1.4 * size).all()


def test_muon_leaves_what_is_not_a_matrix_to_adam():
    gradient = jax.tree.map(lambda p: jnp.linspace(1.0, 2.0, p.size).reshape(p.shape), PARAMS)
    adam = optax.nadam(1.0, 0.9, 0.95)
    expected, _ = adam.update(gradient, adam.init(PARAMS), PARAMS)
    found = first_update(PARAMS, AXES, gradient)
    equal = jax.tree.map(lambda a, b: bool(jnp.allclose(a, b, rtol=1e-5)), found, expected)
    assert equal == {
        "decoder": {
            "embedding": True,
            "blocks": {"attention_norm": True, "query": False},
            "norm": True,
        },
        "vision": {"norm_scale": True, "up_bias": True, "stem0": False},
    }


def follow(config, gradients, params=PARAMS, axes=AXES):
    """Returns the parameters after some updates."""
    return plain(make_optimizer(config, len(gradients), params, axes), gradients, params)


def plain(optimizer, gradients, params=PARAMS):
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def some_gradients(count=5):
    leaves, structure = jax.tree.flatten(PARAMS)
    rng = np.random.default_rng(0)
    return [
        jax.tree.unflatten(structure, [jnp.asarray(rng.normal(0, 0.1, x.shape)) for x in leaves])
        for _ in range(count)
    ]


def test_adamw_is_that_of_optax():
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.3, clip_norm=0.5, b2=0.98)
    decayed = jax.tree.map(lambda x: x.ndim > 1, PARAMS)
    decayed["decoder"]["blocks"]["attention_norm"] = False
    reference = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.adamw(0.1, b1=0.9, b2=0.98, weight_decay=0.3, mask=decayed),
    )
    gradients = some_gradients()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        follow(config, gradients),
        plain(reference, gradients),
    )


@pytest.mark.parametrize("b1", [0.0, 0.9])
def test_adafactor_is_that_of_optax(b1):
    shape = (2, 130, 140)  # large enough to be factored
    params = {"kernel": jnp.ones(shape)}
    gradients = [{"kernel": jax.random.normal(jax.random.key(n), shape)} for n in range(3)]
    config = OptimizerConfig(rule="adafactor", learning_rate=0.1, clip_norm=1e9, b1=b1)
    found = follow(config, gradients, params, {"kernel": ("layers", "embed", "mlp")})
    reference = optax.adafactor(
        0.1, decay_rate=0.8, momentum=b1 or None, multiply_by_parameter_scale=False
    )
    expected = plain(reference, gradients, params)
    np.testing.assert_allclose(found["kernel"], expected["kernel"], rtol=1e-4)


def test_factored_moments_and_small_momentum_are_small():
    params = {"kernel": jax.ShapeDtypeStruct((4, 256, 512), jnp.float32)}
    sizes = {}
    for rule, dtype in [("adamw", "float32"), ("adafactor", "bfloat16")]:
        config = OptimizerConfig(rule=rule, momentum_dtype=dtype)
        optimizer = make_optimizer(config, 10, params, {"kernel": ("layers", "embed", "mlp")})
        leaves = jax.tree.leaves(jax.eval_shape(optimizer.init, params))
        sizes[rule] = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) / 4 / 256 / 512
    assert sizes["adamw"] == pytest.approx(8, rel=0.01)
    assert sizes["adafactor"] == pytest.approx(2, rel=0.02)


def test_groups_have_rates_and_schedules_of_their_own():
    falling = ScheduleConfig(kind="linear")
    groups = {
        "embedding": GroupConfig(parameters=".*embedding", rate=0.1),
        "vision": GroupConfig(parameters="vision/.*", rate=2.0, schedule=falling),
    }
    config = OptimizerConfig(learning_rate=0.1, groups=groups)
    rates = {name: float(rate(9)) for name, rate in make_schedules(config, 10).items()}
    assert rates == pytest.approx({"": 0.1, "embedding": 0.01, "vision": 0.0})
    gradient = jax.tree.map(jnp.ones_like, PARAMS)
    first = jax.tree.map(lambda x: 1 - float(x.ravel()[0]), follow(config, [gradient]))
    assert first["decoder"]["embedding"] == pytest.approx(0.01, rel=1e-3)
    assert first["decoder"]["norm"] == pytest.approx(0.1, rel=1e-3)
    assert first["vision"]["stem0"] == pytest.approx(0.2, rel=1e-3)


def test_a_group_without_parameters_is_refused():
    groups = {"heads": GroupConfig(parameters="heads/.*")}
    with pytest.raises(UserError, match=r"pattern 'heads/\.\*'"):
        make_optimizer(OptimizerConfig(groups=groups), 10, PARAMS, AXES)


def test_rsqrt_halves_after_three_timescales_and_wsd_decays_at_the_end():
    values = rates(400, kind="rsqrt", timescale=100, warmup_steps=10)
    assert values[10] == pytest.approx(0.5)
    assert values[310] == pytest.approx(0.25)
    values = rates(100, kind="wsd", decay_fraction=0.2, warmup_steps=10, final_fraction=0.1)
    assert values[10:80] == pytest.approx([0.5] * 70)
    assert values[89] == pytest.approx(0.275, rel=0.05)
    assert values[-1] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (OptimizerConfig, {"learning_rate": 0.0}),
        (OptimizerConfig, {"clip_norm": -1.0}),
        (OptimizerConfig, {"accumulate": 0}),
        (OptimizerConfig, {"ema_decay": 1.0}),
        (ScheduleConfig, {"warmup_steps": -1}),
        (ScheduleConfig, {"decay_fraction": 0.0}),
    ],
)
def test_values_out_of_range_are_refused(kind, changes):
    (name,) = changes
    with pytest.raises(UserError, match=rf"{kind.__name__}\.{name}: expected"):
        kind(**changes)

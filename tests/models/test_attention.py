import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vla_jax.core.errors import UserError
from vla_jax.models import attention, variants

RNG = np.random.default_rng(0)


def test_positions_count_valid_tokens():
    valid = np.array([[1, 1, 0, 0, 1, 1], [0, 1, 1, 1, 1, 1]], bool)
    positions = np.asarray(attention.valid_positions(valid))
    assert positions[valid].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4]
    assert positions.min() == 0


def test_the_mask_is_bidirectional_over_the_prefix_and_causal_after_it():
    valid = np.array([[1, 0, 1, 1, 1]], bool)
    expected = np.array(
        [
            # 0  1  2 | 3  4   keys; 1 is padding
            [1, 0, 1, 0, 0],
            [1, 0, 1, 0, 0],
            [1, 0, 1, 0, 0],
            [1, 0, 1, 1, 0],
            [1, 0, 1, 1, 1],
        ],
        bool,
    )
    mask = attention.Mask(valid=valid, everyone=3)
    assert mask.table(5).shape == (1, 1, 5, 5)
    np.testing.assert_array_equal(mask.table(5)[0, 0], expected)
    np.testing.assert_array_equal(mask.table(2)[0, 0], expected[-2:])


def test_rope_leaves_position_zero_and_lengths_alone():
    x = RNG.normal(size=(1, 4, 2, 8)).astype(np.float32)
    rotated = attention.rope(x, np.array([[0, 1, 5, 900]]), 10_000.0)
    np.testing.assert_allclose(rotated[:, 0], x[:, 0])
    np.testing.assert_allclose(
        np.linalg.norm(rotated, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5
    )
    assert np.abs(np.asarray(rotated)[:, 1:] - x[:, 1:]).max() > 0.1


def test_rope_rotates_the_two_halves_of_a_head_against_each_other():
    x = np.zeros((1, 1, 1, 4), np.float32)
    x[..., 0] = 1
    y = np.asarray(attention.rope(x, np.array([[2]]), 100.0))[0, 0, 0]
    np.testing.assert_allclose(y, [np.cos(2), 0, np.sin(2), 0], atol=1e-6)
    x = np.zeros((1, 1, 1, 4), np.float32)
    x[..., 3] = 1  # the second frequency is base ** (-1 / 2)
    y = np.asarray(attention.rope(x, np.array([[2]]), 100.0))[0, 0, 0]
    np.testing.assert_allclose(y, [0, -np.sin(0.2), 0, np.cos(0.2)], atol=1e-6)


def test_rope_products_depend_on_the_distance_only():
    query, key = (RNG.normal(size=(1, 1, 1, 16)).astype(np.float32) for _ in range(2))

    def product(i, j):
        a, b = (attention.rope(x, np.array([[n]]), 10_000.0) for x, n in ((query, i), (key, j)))
        return float(jnp.sum(a * b))

    assert product(7, 3) == pytest.approx(product(104, 100), abs=1e-4)
    assert product(7, 3) != pytest.approx(product(3, 7), abs=1e-2)


@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_attention_is_the_softmax_average_of_the_seen_values(key_heads):
    query = RNG.normal(size=(2, 3, 4, 8)).astype(np.float32)
    key, value = (RNG.normal(size=(2, 5, key_heads, 8)).astype(np.float32) for _ in range(2))
    valid = np.array([[0, 1, 1, 1, 1], [1, 1, 0, 1, 1]], bool)
    mask = attention.Mask(valid=jnp.asarray(valid), everyone=2)
    seen = np.tril(np.ones((5, 5), bool))[-3:]
    seen[:, :2] = True
    seen = seen[None, None] & valid[:, None, None]
    wide_key, wide_value = (np.repeat(x, 4 // key_heads, axis=2) for x in (key, value))
    scores = np.einsum("bqhk,bshk->bhqs", query, wide_key) / np.sqrt(8)
    weights = np.where(seen, np.exp(scores), 0)
    weights /= weights.sum(-1, keepdims=True)
    expected = np.einsum("bhqs,bshk->bqhk", weights, wide_value)
    found = attention.attend(*map(jnp.asarray, (query, key, value)), mask)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_logits_are_capped_before_the_softmax():
    query, key, value = (
        jnp.asarray(RNG.normal(0, 3, (1, n, 2, 4)), jnp.float32) for n in (2, 5, 5)
    )
    mask = attention.Mask(valid=jnp.ones((1, 5), bool), everyone=0)
    logits = np.einsum("bqhk,bshk->bhqs", query, key) * 0.7
    weights = np.exp(1.5 * np.tanh(logits / 1.5))
    weights[..., 0, 4] = 0  # the last but one does not see the last
    weights /= weights.sum(-1, keepdims=True)
    found = attention.attend(query, key, value, mask, scale=0.7, softcap=1.5)
    np.testing.assert_allclose(
        found, np.einsum("bhqs,bshk->bqhk", weights, value), rtol=1e-4, atol=1e-5
    )


def choose(backend, queries, *, head=64, dtype="bfloat16", softcap=None):
    shape = jax.ShapeDtypeStruct((1, queries, 2, head), jnp.dtype(dtype))
    return attention.choose(backend, shape, shape, softcap=softcap)


def test_one_query_and_short_sequences_take_xla():
    assert choose("splash", 1) == "xla"
    assert choose("cudnn", 1) == "xla"
    assert choose("cudnn", 2) == "cudnn"
    assert choose("auto", 8192) == "xla"  # not a TPU


def test_long_sequences_take_splash_on_a_tpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert choose("auto", 8192) == "splash"
    assert choose("auto", 1024) == "xla"
    attention.check("splash")


def on_gpus(*, kind="NVIDIA H200", tensor=1):
    """The mesh of a plan for GPUs."""
    device = jax.sharding.AbstractDevice(kind, None, "gpu")
    mesh = jax.sharding.AbstractMesh((8 // tensor, tensor), ("fsdp", "tensor"))
    return jax.sharding.use_abstract_mesh(mesh.update(abstract_device=device))


@pytest.mark.parametrize(
    ("head", "dtype", "softcap", "machine", "expected"),
    [
        (72, "bfloat16", None, {}, "cudnn"),  # SigLIP
        (128, "bfloat16", None, {}, "cudnn"),  # Llama
        (256, "bfloat16", None, {}, "xla"),  # Gemma
        (128, "bfloat16", 50.0, {}, "xla"),  # Gemma 2 27B
        (128, "float32", None, {}, "xla"),
        (12, "bfloat16", None, {}, "xla"),
        (128, "bfloat16", None, {"kind": "AMD Instinct MI300X"}, "xla"),
        (128, "bfloat16", None, {"tensor": 2}, "xla"),
    ],
)
def test_gpus_take_cudnn_module_by_module(head, dtype, softcap, machine, expected):
    with on_gpus(**machine):
        assert choose("auto", 300, head=head, dtype=dtype, softcap=softcap) == expected


@pytest.mark.parametrize(("backend", "device"), [("cudnn", "GPU"), ("splash", "TPU")])
def test_a_backend_of_another_device_is_refused(backend, device):
    with pytest.raises(UserError, match=f"backend={backend}: expected a {device}, found CPU"):
        attention.check(backend)


def test_xla_runs_everywhere():
    attention.check("auto")
    attention.check("xla")


@pytest.fixture
def hopper(monkeypatch):
    """Lets cuDNN's attention be lowered where there is no GPU."""
    source = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(source, "check_cudnn_version", lambda: 91300)
    monkeypatch.setattr(source, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(source, "is_cuda_compute_capability_equal", lambda capability: False)


@pytest.mark.parametrize(
    ("heads", "key_heads", "size", "queries", "keys", "masked"),
    [
        (32, 32, 128, 321, 321, True),
        (16, 16, 72, 256, 256, False),
        (16, 16, 64, 261, 261, False),
        (4, 2, 64, 17, 320, True),
    ],
)
def test_cudnn_takes_the_models_shapes_odd_lengths_included(
    hopper, heads, key_heads, size, queries, keys, masked
):
    def loss(query, key, value, valid):
        mask = attention.Mask(valid=valid, everyone=keys - 16) if masked else None
        out = attention.attend(query, key, value, mask, backend="cudnn")
        assert out.shape == query.shape
        return jnp.sum(out.astype(jnp.float32))

    shapes = [(2, queries, heads, size), (2, keys, key_heads, size), (2, keys, key_heads, size)]
    inputs = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    inputs.append(jax.ShapeDtypeStruct((2, keys), jnp.bool_))
    step = jax.jit(jax.grad(loss, (0, 1, 2)))
    text = step.trace(*inputs).lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmha" in text
    assert "Backward" in text


def test_padding_for_cudnn_changes_no_answer(monkeypatch):
    """cuDNN's padding, run on the CPU: the call is replaced by that of XLA."""
    real = jax.nn.dot_product_attention

    def on_cpu(query, key, value, *, implementation, **options):
        assert query.shape[1] % 2 == key.shape[1] % 2 == 0 or implementation == "xla"
        return real(query, key, value, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", on_cpu)
    valid = np.ones((2, 7), bool)
    valid[1, 3] = False
    for everyone, queries in ((4, 7), (0, 7), (4, 3), (7, 2), (None, 7)):
        query, key, value = (
            jnp.asarray(RNG.normal(size=(2, n, 2, 8)), jnp.float32) for n in (queries, 7, 7)
        )
        mask = None
        if everyone is not None:
            mask = attention.Mask(valid=jnp.asarray(valid), everyone=everyone)
        found, expected = (
            attention.attend(query, key, value, mask, backend=backend)
            for backend in ("cudnn", "xla")
        )
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, "config.model.vision with dtype float32"),
        ({"dtype": "bfloat16", "heads": 2}, "config.model.vision with heads of 4"),
        (
            {"dtype": "bfloat16", "attention_softcap": 50.0},
            r"config.model.decoder with attention_softcap 50\.0",
        ),
    ],
)
def test_what_cudnn_lacks_is_refused(build_config, changes, found):
    config = build_config()
    decoder = dataclasses.replace(
        config.decoder, attention_softcap=changes.get("attention_softcap")
    )
    vision = dataclasses.replace(config.vision, heads=changes.get("heads", 1))
    with pytest.raises(UserError, match=f"backend=cudnn: expected .* found {found}"):
        dataclasses.replace(
            config,
            vision=vision,
            decoder=decoder,
            dtype=changes.get("dtype", "float32"),
            backend="cudnn",
        )


def test_gemmas_heads_are_refused_by_name():
    with pytest.raises(
        UserError,
        match=r"found config\.model\.decoder with heads of 256 \(128 is the limit\)\. .*auto",
    ):
        dataclasses.replace(variants.PALIGEMMA_3B, backend="cudnn")
    assert dataclasses.replace(variants.OPENVLA_7B, backend="cudnn").backend == "cudnn"

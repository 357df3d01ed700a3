import jax.numpy as jnp
import numpy as np
import pytest

from vla_jax.models import attention

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
    mask = attention.prefix_lm_mask(valid, 3)
    assert mask.shape == (1, 1, 5, 5)
    np.testing.assert_array_equal(mask[0, 0], expected)
    np.testing.assert_array_equal(
        attention.prefix_lm_mask(valid, 3, queries=2)[0, 0], expected[-2:]
    )


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
    mask = RNG.random((2, 1, 3, 5)) < 0.6
    mask[..., 0] = True
    wide_key, wide_value = (np.repeat(x, 4 // key_heads, axis=2) for x in (key, value))
    scores = np.einsum("bqhk,bshk->bhqs", query, wide_key) / np.sqrt(8)
    weights = np.where(mask, np.exp(scores), 0)
    weights /= weights.sum(-1, keepdims=True)
    expected = np.einsum("bhqs,bshk->bqhk", weights, wide_value)
    found = attention.attend(*map(jnp.asarray, (query, key, value, mask)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vla_jax.train import loss as loss_lib
from vla_jax.train.loss import LossConfig, source_metrics

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (4, 5, 7)).astype(np.float32)
TARGETS = RNG.integers(0, 7, (4, 5))
MASK = np.arange(5)[None] < np.array([5, 1, 3, 2])[:, None]
SOURCE = np.array([0, 1, 1, 0])


def measure(normalize="example", *, z_loss=0.0, chunks=1, **changes):
    values = {"logits": LOGITS, "targets": TARGETS, "mask": MASK, "source": SOURCE} | changes
    logits, targets, mask, source = (
        jnp.asarray(values[name]) for name in ("logits", "targets", "mask", "source")
    )
    config = LossConfig(normalize=normalize, z_loss=z_loss)
    losses = loss_lib.token_losses(lambda x: x, logits, targets, chunks)
    loss, each = loss_lib.suffix_loss(losses, mask, loss_lib.weights(mask, config), config)
    sums = loss_lib.source_sums(losses, each, targets, mask, source, 3)
    return float(loss), {name: np.asarray(value) for name, value in sums.items()}


def reference():
    probability = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    return -np.log(np.take_along_axis(probability, TARGETS[..., None], -1)[..., 0])


def test_the_mean_over_examples_of_means_over_tokens():
    per_example = [row[mask].mean() for row, mask in zip(reference(), MASK, strict=True)]
    assert measure("example")[0] == pytest.approx(np.mean(per_example), rel=1e-5)


def test_the_mean_over_tokens():
    assert measure("token")[0] == pytest.approx(reference()[MASK].mean(), rel=1e-5)


@pytest.mark.parametrize("normalize", ["example", "token"])
def test_masked_tokens_change_nothing(normalize):
    logits, targets = LOGITS.copy(), TARGETS.copy()
    logits[~MASK] = 50
    targets[~MASK] = 0
    changed, sums = measure(normalize, logits=logits, targets=targets)
    expected, expected_sums = measure(normalize)
    assert changed == pytest.approx(expected, rel=1e-6)
    for name, value in expected_sums.items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-6)
    targets = TARGETS.copy()
    targets[2, 0] = (targets[2, 0] + 1) % 7  # supervised
    assert measure(normalize, targets=targets)[0] != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("chunks", [2, 3, 5])
def test_chunks_change_nothing(chunks):
    loss, sums = measure(chunks=chunks)
    expected, expected_sums = measure()
    assert loss == pytest.approx(expected, rel=1e-6)
    for name, value in expected_sums.items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-6)

    def value(scale, chunks):
        head = lambda x: x * scale  # noqa: E731
        losses = loss_lib.token_losses(head, jnp.asarray(LOGITS), jnp.asarray(TARGETS), chunks)
        return jnp.sum(losses.nll * MASK)

    slopes = [jax.grad(value)(1.5, n) for n in (1, chunks)]
    assert float(slopes[1]) == pytest.approx(float(slopes[0]), rel=1e-5)


def test_chunks_hold_the_logits_of_a_device_below_the_limit():
    config = LossConfig(chunk_megabytes=64)
    logits = 8 * 16 * 2**18  # 128 MiB of float32
    assert [loss_lib.chunks(logits, 16, shards, config) for shards in (1, 2, 4)] == [2, 1, 1]
    assert loss_lib.chunks(logits, 16, 1, LossConfig(chunk_megabytes=60)) == 3
    assert loss_lib.chunks(8 * 3 * 2**24, 3, 1, config) == 3  # one slot at a time, at least


def test_z_loss_is_trained_on_and_not_reported():
    log_z = np.log(np.exp(LOGITS).sum(-1))
    extra = [(row[mask] ** 2).mean() for row, mask in zip(log_z, MASK, strict=True)]
    loss, sums = measure(z_loss=0.1)
    expected, expected_sums = measure()
    assert loss == pytest.approx(expected + 0.1 * np.mean(extra), rel=1e-5)
    np.testing.assert_array_equal(sums["loss"], expected_sums["loss"])


def test_sums_per_source():
    _, sums = measure()
    losses = np.array([row[mask].mean() for row, mask in zip(reference(), MASK, strict=True)])
    hits = ((LOGITS.argmax(-1) == TARGETS) & MASK).sum(1)
    for source, members in enumerate(([0, 3], [1, 2], [])):
        np.testing.assert_allclose(sums["loss"][source], losses[members].sum(), rtol=1e-5)
        assert sums["correct"][source] == hits[members].sum()
        assert sums["tokens"][source] == MASK[members].sum()
        assert sums["examples"][source] == len(members)


def test_metrics_are_means_per_source_and_leave_empty_sources_out():
    _, sums = measure()
    metrics = source_metrics([sums, sums], ("robot", "web", "other"))
    assert sorted(metrics) == ["accuracy/robot", "accuracy/web", "loss/robot", "loss/web"]
    losses = [row[mask].mean() for row, mask in zip(reference(), MASK, strict=True)]
    assert metrics["loss/web"] == pytest.approx((losses[1] + losses[2]) / 2, rel=1e-5)
    hits = (LOGITS.argmax(-1) == TARGETS)[MASK & (SOURCE == 0)[:, None]]
    assert metrics["accuracy/robot"] == pytest.approx(hits.mean())


def test_an_example_without_a_target_costs_nothing():
    mask = MASK.copy()
    mask[1] = False
    for normalize in ("example", "token"):
        assert np.isfinite(measure(normalize, mask=mask)[0])
    assert measure("token", mask=np.zeros_like(MASK))[0] == 0

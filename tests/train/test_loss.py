import jax.numpy as jnp
import numpy as np
import pytest

from vla_jax.train.loss import LossConfig, source_metrics, suffix_loss

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (4, 5, 7)).astype(np.float32)
TARGETS = RNG.integers(0, 7, (4, 5))
MASK = np.arange(5)[None] < np.array([5, 1, 3, 2])[:, None]
SOURCE = np.array([0, 1, 1, 0])


def measure(normalize="example", **changes):
    values = {"logits": LOGITS, "targets": TARGETS, "mask": MASK, "source": SOURCE} | changes
    arrays = [jnp.asarray(values[name]) for name in ("logits", "targets", "mask", "source")]
    loss, sums = suffix_loss(*arrays, sources=3, config=LossConfig(normalize=normalize))
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

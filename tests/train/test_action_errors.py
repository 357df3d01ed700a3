import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vla_jax.actions.bins import Bins
from vla_jax.actions.spec import ActionSpec
from vla_jax.actions.statistics import Statistics
from vla_jax.tokens.action_tokens import ActionTokens
from vla_jax.tokens.fast import Fast, FastConfig
from vla_jax.tokens.fast_tokens import FastTokens
from vla_jax.train.action_errors import ActionErrors

IDS = tuple(range(40, 24, -1))  # 16 bins, in an order of their own
VOCABULARY, CHUNK, SLOTS = 50, 2, 8
NAMES = ("arm", "questions", "gripper")


def make_tokens(names, convention="uniform", *, scale=1.0):
    size = len(names)
    spec = ActionSpec(
        names=names,
        units=("0..1", *("metres per step",) * (size - 1)),
        low=(0.0, *(-1.0,) * (size - 1)),
        high=(1.0,) * size,
        discrete=(names[0] == "terminate", *(False,) * (size - 1)),
        frame="base",
        gripper="none",
        control_hz=5.0,
    )
    values = scale * np.random.default_rng(size).normal(size=(500, size))
    return ActionTokens(spec, Statistics.of(values), IDS, Bins((16,) * size, convention))


ACTIONS = {
    "arm": make_tokens(("terminate", "dx", "dy")),
    "gripper": make_tokens(("open", "dz"), scale=0.1),
}


@pytest.fixture
def batch():
    """Targets of 60 examples: actions and an end token, or an answer out of the same rows."""
    rng = np.random.default_rng(0)
    source = rng.integers(0, 3, 60)
    targets = np.full((60, SLOTS), 3)
    mask = np.zeros((60, SLOTS), bool)
    for row, i in enumerate(source):
        if NAMES[i] in ACTIONS:
            tokens = ACTIONS[NAMES[i]]
            size = tokens.spec.size
            action = rng.normal(size=(CHUNK, size)) * 0.5
            targets[row, : CHUNK * size] = tokens.encode(action).ravel()
            mask[row, : CHUNK * size + 1] = True
        else:
            targets[row, :4] = rng.choice(IDS, 4)
            mask[row, :5] = True
    mask[:7, 3:] = False  # beyond the end of the episode
    predicted = rng.integers(20, 45, targets.shape)
    return predicted, targets, mask, source


def by_hand(predicted, targets, mask, source):
    """The same, one slot after the other."""
    errors, slots, illegal = {}, {}, {}
    for row, i in enumerate(source):
        name = NAMES[i]
        if name not in ACTIONS:
            continue
        tokens = ACTIONS[name]
        for slot in range(CHUNK * tokens.spec.size):
            if not mask[row, slot]:
                continue
            k = slot % tokens.spec.size
            which = f"{name}/{tokens.spec.names[k]}"
            for key in (name, which):
                slots[key] = slots.get(key, 0) + 1
            token = int(predicted[row, slot])
            if token not in IDS or IDS.index(token) not in tokens.legal_bins()[k]:
                for key in (name, which):
                    illegal[key] = illegal.get(key, 0) + 1
                continue
            value, truth = (
                tokens.decode(np.full(tokens.spec.size, t))[k] for t in (token, targets[row, slot])
            )
            errors.setdefault(f"error/{which}", []).append(abs(value - truth))
    means = {key: np.mean(found) for key, found in errors.items()}
    return means | {f"illegal/{key}": illegal.get(key, 0) / slots[key] for key in slots}


def test_errors_are_those_of_a_plain_loop(batch):
    measured = ActionErrors(NAMES, ACTIONS, VOCABULARY, CHUNK)
    sums = jax.jit(measured.sums)(*map(jnp.asarray, batch))
    found, expected = measured.metrics(jax.device_get(sums)), by_hand(*batch)
    assert found.keys() == expected.keys()
    assert set(found) >= {"error/arm/terminate", "error/gripper/dz", "illegal/arm"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name


def test_right_predictions_have_no_error(batch):
    targets = batch[1]
    measured = ActionErrors(NAMES, ACTIONS, VOCABULARY, CHUNK)
    found = measured.metrics(
        jax.device_get(measured.sums(*map(jnp.asarray, (targets, *batch[1:]))))
    )
    assert set(found.values()) == {0.0}
    assert len(found) == 12


def test_sums_of_parts_add_up(batch):
    measured = ActionErrors(NAMES, ACTIONS, VOCABULARY, CHUNK)
    whole = measured.sums(*map(jnp.asarray, batch))
    halves = [measured.sums(*(jnp.asarray(x[part::2]) for x in batch)) for part in (0, 1)]
    for name, value in whole.items():
        np.testing.assert_allclose(halves[0][name] + halves[1][name], value, rtol=1e-5)


def test_openvla_takes_its_last_bin_for_the_last_but_one():
    tokens = {"arm": make_tokens(("dx", "dy"), "openvla")}
    measured = ActionErrors(("arm",), tokens, VOCABULARY, 1)
    last, before = jnp.full((1, 2), IDS[-1]), jnp.full((1, 2), IDS[-2])
    sums = measured.sums(last, before, jnp.ones((1, 2), bool), jnp.zeros(1, int))
    assert measured.metrics(jax.device_get(sums))["error/arm/dy"] == 0


def test_a_source_without_examples_is_left_out(batch):
    measured = ActionErrors(NAMES, ACTIONS, VOCABULARY, CHUNK)
    arm = batch[3] == 0
    found = measured.metrics(jax.device_get(measured.sums(*(jnp.asarray(x[arm]) for x in batch))))
    assert {name.split("/")[1] for name in found} == {"arm"}


def test_a_plan_before_the_action_changes_nothing(batch):
    predicted, targets, mask, source = batch
    targets = np.where((source == 1)[:, None], 3, targets)  # a plan has no token of actions
    measured = ActionErrors(NAMES, ACTIONS, VOCABULARY, CHUNK)
    sums = measured.sums(*map(jnp.asarray, (predicted, targets, mask, source)))
    lead = [np.pad(x, [(0, 0), (3, 0)], constant_values=2) for x in (predicted, targets)]
    spoken = np.pad(mask, [(0, 0), (3, 0)], constant_values=True)
    moved = measured.sums(*map(jnp.asarray, (*lead, spoken, source)))
    found, expected = (measured.metrics(jax.device_get(each)) for each in (moved, sums))
    assert found == pytest.approx(expected)


def test_of_fast_only_whether_its_tokens_are_meant_is_measured():
    chunks = np.random.default_rng(0).uniform(-1, 1, (50, CHUNK, 2)).astype(np.float32)
    fast = Fast.train([chunks], FastConfig(size=100))
    spec = ACTIONS["gripper"].spec
    ids = tuple(range(100, 100 + len(fast.pieces)))
    tokens = FastTokens(spec, Statistics.of(chunks.reshape(-1, 2)), ids, fast)
    measured = ActionErrors(("gripper",), {"gripper": tokens}, 300, CHUNK)
    targets = jnp.asarray([[100, 101, 102, 1, 0], [103, 104, 1, 0, 0]])
    predicted = jnp.asarray([[100, 5, 120, 7, 7], [7, 110, 7, 7, 7]])
    mask = jnp.asarray([[True] * 4 + [False], [True] * 3 + [False] * 2])
    sums = measured.sums(predicted, targets, mask, jnp.zeros(2, int))
    assert measured.metrics(jax.device_get(sums)) == {"illegal/gripper": pytest.approx(2 / 5)}
    assert measured.measured("gripper") == []


def test_questions_alone_have_no_actions(batch):
    measured = ActionErrors(("questions",), {}, VOCABULARY, CHUNK)
    assert measured.sums(*map(jnp.asarray, (*batch[:3], np.zeros(60, int)))) == {}
    assert measured.metrics({}) == {}

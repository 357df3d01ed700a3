import dataclasses
import json
import pathlib

import numpy as np
import pytest

from vla_jax.actions.bins import Bins
from vla_jax.actions.statistics import Statistics
from vla_jax.core.errors import UserError
from vla_jax.data.robots.bridge_orig import ROBOT as BRIDGE
from vla_jax.tokens.action_tokens import (
    ActionTokens,
    ActionTokensConfig,
    choose_ids,
    smooth_rows,
)
from vla_jax.tokens.tokenizer import Tokenizer

UNK = 3  # of a trained tokenizer
COUNTS = (2, 3, 16, 255, 256, 257, 4096)


def make(spec, statistics, count, first=100):
    return ActionTokens(spec, statistics, tuple(range(first, first + count)))


def test_loc_takes_the_location_tokens_in_order(tokenizer):
    same, ids = choose_ids(ActionTokensConfig(rows="loc"), tokenizer, 16)
    assert same is tokenizer
    assert list(ids) == [tokenizer.id(f"<loc{k:04d}>") for k in range(16)]


@pytest.mark.parametrize("count", [2, 40, 60])
def test_last_takes_the_end_of_the_vocabulary_and_no_special_token(tokenizer, count):
    same, ids = choose_ids(ActionTokensConfig(rows="last"), tokenizer, count)
    assert same is tokenizer
    assert len(set(ids)) == count
    assert min(ids) > UNK
    assert tokenizer.special.separator not in ids
    assert list(ids) == sorted(ids)
    assert ids[-1] == tokenizer.size - 1
    # 32 locations lie behind the newline; a longer row of ids skips it.
    assert ids[-1] - ids[0] == count - 1 + (count > 32)


SCHEMES = {
    "integers": ActionTokensConfig(scheme="integers"),
    "loc": ActionTokensConfig(rows="loc"),
    "last": ActionTokensConfig(rows="last"),
    "least_used": ActionTokensConfig(rows="least_used"),
    "openvla": ActionTokensConfig(rows="openvla"),
    "extend": ActionTokensConfig(scheme="extend"),
}


@pytest.fixture(scope="module")
def roomy():
    """A tokenizer that has every integer below 4096 as one token, and as many places."""
    return Tokenizer.train(map(str, range(4096)), 10_000, 4096)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("count", COUNTS)
def test_actions_come_back_within_half_a_bin_in_every_scheme(
    roomy, spec, statistics, actions, scheme, count
):
    used = {i: 1 + i % 3 for i in range(0, roomy.size, 2)}
    tokenizer, ids = choose_ids(SCHEMES[scheme], roomy, count, used)
    assert len(set(ids)) == count
    assert not set(ids) & tokenizer.special.ids
    tokens = ActionTokens(spec, statistics, ids)
    written = tokens.encode(actions)
    assert set(written.ravel().tolist()) <= set(ids)
    found = tokens.decode(written)
    low, high = tokens.bounds
    inside = np.clip(actions, low, high)  # what lies beyond the quantiles is clipped
    np.testing.assert_array_equal(found[:, 0], actions[:, 0])
    half = (high - low)[1:] / count / 2
    assert (np.abs(found - inside)[:, 1:] <= half + 1e-6).all()


def test_extend_adds_one_row_per_bin(tokenizer):
    longer, ids = choose_ids(ActionTokensConfig(scheme="extend"), tokenizer, 300)
    assert list(ids) == list(range(tokenizer.size, tokenizer.size + 300))
    assert longer.size == tokenizer.size + 300


@pytest.mark.parametrize("rows", ["loc", "last"])
def test_more_bins_than_rows_is_refused_by_name(tokenizer, rows):
    with pytest.raises(UserError, match=r"config\.bins\.count.*found 4000.*scheme=extend") as error:
        choose_ids(ActionTokensConfig(rows=rows), tokenizer, 4000)
    most = 32 if rows == "loc" else tokenizer.size - 5
    assert f"at most {most} (config.action_tokens.rows={rows})" in str(error.value)
    assert len(choose_ids(ActionTokensConfig(rows=rows), tokenizer, most)[1]) == most


@pytest.mark.parametrize("count", COUNTS)
def test_actions_come_back_within_half_a_bin(spec, statistics, actions, count):
    tokens = make(spec, statistics, count)
    inside = np.clip(actions, statistics.q01, statistics.q99).astype(np.float32)
    ids = tokens.encode(inside)
    assert ids.dtype == np.int32
    assert ids.min() >= 100
    assert ids.max() < 100 + count
    back = tokens.decode(ids)
    width = np.array([0, statistics.q99[1] - statistics.q01[1], 0, 1])
    assert (np.abs(back - inside) <= width / count / 2 + 1e-6).all()
    np.testing.assert_array_equal(back[:, 0], inside[:, 0])


@pytest.mark.parametrize("count", COUNTS)
def test_every_token_decodes_to_an_action_that_encodes_to_it(spec, statistics, count):
    tokens = make(spec, statistics, count)
    ids = np.full((count, 4), 100, np.int32)
    ids[:, 1] = ids[:, 3] = np.arange(100, 100 + count)
    again = tokens.encode(tokens.decode(ids))
    np.testing.assert_array_equal(again[:, [0, 1, 3]], ids[:, [0, 1, 3]])


def test_terminate_is_its_own_value_and_the_rest_is_clipped(spec, statistics):
    tokens = make(spec, statistics, 256)
    found = tokens.bins(np.array([[1, 9, 0.1, 9], [0, -9, 0.1, -9], [7, 9, 9, 0.5]], np.float32))
    np.testing.assert_array_equal(found[:, 0], [1, 0, 1])
    np.testing.assert_array_equal(found[:, 1], [255, 0, 255])
    np.testing.assert_array_equal(found[:, 3], [255, 0, 128])


def test_a_bounded_integer_dimension_starts_at_its_low(spec, statistics):
    shifted = dataclasses.replace(spec, low=(2.0, *spec.low[1:]), high=(5.0, *spec.high[1:]))
    tokens = make(shifted, statistics, 8)
    values = np.zeros((4, 4), np.float32)
    values[:, 0] = [2, 3, 4, 5]
    np.testing.assert_array_equal(tokens.bins(values)[:, 0], [0, 1, 2, 3])
    np.testing.assert_array_equal(tokens.decode(tokens.encode(values))[:, 0], [2, 3, 4, 5])
    assert tokens.legal_bins() == [range(4), range(8), range(8), range(8)]


def test_an_integer_dimension_with_more_values_than_bins_is_refused(spec, statistics):
    wide = dataclasses.replace(spec, high=(4.0, *spec.high[1:]))
    with pytest.raises(UserError, match=r"'terminate'.*at least 5 bins.*found 4"):
        make(wide, statistics, 4)


def test_a_dimension_with_more_bins_than_ids_is_refused(spec, statistics):
    with pytest.raises(UserError, match=r"'dx'.*at least 17 bins.*found 16"):
        ActionTokens(spec, statistics, tuple(range(16)), Bins((16, 17, 16, 16)))


def test_dimensions_with_fewer_bins_use_the_first_ids(spec, statistics, actions):
    tokens = ActionTokens(spec, statistics, tuple(range(100, 164)), Bins((64, 64, 2, 4)))
    ids = tokens.encode(actions)
    assert tokens.legal_bins() == [range(2), range(64), range(2), range(4)]
    assert ids.max(axis=0).tolist() == [101, 163, 101, 103]
    assert np.abs(tokens.decode(ids) - actions)[:, 3].max() <= 1 / 8 + 1e-6


def test_a_token_that_is_no_bin_is_refused(spec, statistics):
    tokens = make(spec, statistics, 16)
    with pytest.raises(UserError, match=r"expected ids of action bins, found \[100, 99"):
        tokens.decode(np.array([[100, 99, 100, 100]]))


def test_chunks_and_batches_keep_their_shape(spec, statistics, actions):
    tokens = make(spec, statistics, 64)
    chunks = actions.reshape(10, 8, 5, 4)
    assert tokens.decode(tokens.encode(chunks)).shape == chunks.shape
    np.testing.assert_array_equal(tokens.encode(chunks).reshape(-1, 4), tokens.encode(actions))


def test_smooth_rows_are_unit_distinct_and_ordered():
    rows = smooth_rows(64, 32, seed=3)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    similarity = rows @ rows.T
    # A neighbour is nearer than a bin eight further on, everywhere on the line.
    near = np.diagonal(similarity, 1)[: 64 - 8]
    far = np.diagonal(similarity, 8)
    assert (near > far).all()
    assert (similarity[~np.eye(64, dtype=bool)] < 1 - 1e-4).all()
    np.testing.assert_array_equal(rows, smooth_rows(64, 32, seed=3))
    assert not np.array_equal(rows, smooth_rows(64, 32, seed=4))


def test_integers_are_the_tokens_of_the_numbers():
    tokenizer = Tokenizer.train([str(k) for k in range(64)], 512, 0)
    same, ids = choose_ids(ActionTokensConfig(scheme="integers"), tokenizer, 64)
    assert same is tokenizer
    assert [tokenizer.decode([i]) for i in ids] == [str(k) for k in range(64)]


def test_integers_that_the_tokenizer_splits_are_refused(tokenizer):
    with pytest.raises(UserError, match=r"scheme=integers: \d+ .* expected one token for \d+"):
        choose_ids(ActionTokensConfig(scheme="integers"), tokenizer, 64)


def test_openvla_counts_its_rows_down_from_the_end_before_added_tokens(tokenizer):
    config = ActionTokensConfig(rows="openvla")
    _, ids = choose_ids(config, tokenizer.extended(["<more>"]), 8)
    assert list(ids) == list(range(tokenizer.base_size - 1, tokenizer.base_size - 9, -1))


def test_openvla_decodes_its_two_last_bins_alike_and_does_not_stretch_the_gripper(spec, statistics):
    ids = tuple(range(300, 44, -1))
    tokens = ActionTokens(spec, statistics, ids, Bins((256,) * 4, "openvla"))
    low, high = np.array(statistics.q01), np.array(statistics.q99)
    action = np.array([0, high[1], low[2], 0.7], np.float32)
    found = tokens.encode(action)
    assert found[1] == ids[255]  # +1 alone
    centre = -1 + 2 * (254 + 0.5) / 255
    expected = low[1] + (centre + 1) / 2 * (high[1] - low[1])
    assert tokens.decode(found)[1] == pytest.approx(expected, abs=1e-7)
    assert tokens.decode(found)[3] == pytest.approx(0.7, abs=1 / 255)
    assert found[3] == ids[int((0.7 + 1) / 2 * 255)]


def test_openvla_actions_are_those_of_its_own_code():
    folder = pathlib.Path(__file__).parents[1] / "models" / "data" / "openvla"
    golden = np.load(folder / "golden_io.npz")
    config = json.loads((folder / "config.json").read_text())
    stored = config["norm_stats"]["bridge_orig"]["action"]
    vocabulary = 30_016  # of the model that wrote the file, without padding
    # Its decoding knows no grammar: an id that is no action is clipped to one.
    bins = np.clip(vocabulary - golden["rows"][golden["gen"]] - 1, 0, 254)
    zeros = np.zeros((2, 7), np.float32)
    quantiles = {name: tuple(stored[name]) for name in ("q01", "q99")}
    statistics = dataclasses.replace(Statistics.of(zeros), **quantiles)
    ids = tuple(range(vocabulary - 1, vocabulary - 257, -1))
    tokens = ActionTokens(BRIDGE.spec, statistics, ids, Bins((256,) * 7, "openvla"))
    found = tokens.decode(np.array(ids)[bins])
    np.testing.assert_allclose(found, golden["act"], atol=1e-6)

"""Paired tests against scipy, enumeration, published intervals and simulation."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats

from vla_jax.core.errors import UserError
from vla_jax.eval import compare
from vla_jax.eval.rate import Rate


@pytest.mark.parametrize(("k", "n"), [(0, 20), (1, 29), (81, 263), (299, 300), (300, 300)])
def test_wilson_intervals_are_those_of_scipy(k, n):
    expected = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    rate = Rate.of([True] * k + [False] * (n - k))
    assert (rate.low, rate.high) == pytest.approx((expected.low, expected.high), abs=1e-7)


@pytest.mark.parametrize("total", range(1, 11))
def test_mcnemar_counts_the_coin_flips_that_are_no_likelier(total):
    flips = [sum(flip) for flip in itertools.product((0, 1), repeat=total)]
    chance = [flips.count(k) for k in range(total + 1)]
    for k in range(total + 1):
        p = sum(c for c in chance if c <= chance[k]) / 2**total
        assert compare.mcnemar(total - k, k) == pytest.approx(p)


def test_mcnemar_agrees_with_the_normal_approximation_where_it_holds():
    p = 2 * stats.norm.sf((abs(440 - 560) - 1) / math.sqrt(1000))
    assert compare.mcnemar(440, 560) == pytest.approx(p, rel=0.03)
    assert compare.mcnemar(0, 0) == 1


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        ((1, 1, 7, 12), 0.026, 0.507),  # Fagerland, Lydersen, Laake 2014, the Bentur data
        ((14, 0, 5, 22), 0.011, 0.226),  # Altman et al. 2000, Statistics with Confidence, 6.2
    ],
)
def test_paired_intervals_are_the_published_ones(table, low, high):
    assert compare.paired_interval(*table) == pytest.approx((low, high), abs=6e-4)
    both, one, two, neither = table
    mirrored = compare.paired_interval(both, two, one, neither)
    assert mirrored == pytest.approx((-high, -low), abs=6e-4)


def test_the_interval_of_a_run_and_itself_holds_zero_and_is_narrower_than_of_two():
    low, high = compare.paired_interval(60, 0, 0, 40)
    assert low == pytest.approx(-high)
    assert 0 <= high < 0.05
    independent = compare.paired_interval(36, 24, 24, 16)
    assert independent[1] > 0.12
    assert compare.paired_interval(10, 0, 0, 0)[0] <= 0


@pytest.mark.parametrize("chances", [(0.5, 0.1, 0.2, 0.2), (0.85, 0.03, 0.1, 0.02)])
def test_the_interval_covers_the_truth_19_times_in_20(chances):
    rng = np.random.default_rng(0)
    truth = chances[2] - chances[1]
    tables = rng.multinomial(100, chances, size=2000)
    inside = [
        low <= truth <= high
        for low, high in (compare.paired_interval(*map(int, t)) for t in tables)
    ]
    assert 0.935 < np.mean(inside) < 0.98


def test_two_runs_are_compared_episode_by_episode(episodes):
    first = episodes(seen=[1] * 30 + [0] * 10, new=[0] * 20 + [1] * 20)
    second = episodes(seen=[1] * 30 + [0] * 10, new=[1] * 30 + [0] * 10)
    seen, new, every = compare.compare({"A": first}, {"B": second})
    assert [d.split for d in (seen, new, every)] == ["seen", "new", "all"]
    assert (seen.p, seen.only_first, seen.only_second) == (1, 0, 0)
    assert (new.only_first, new.only_second) == (10, 20)
    assert new.p == pytest.approx(stats.binomtest(20, 30).pvalue)
    assert new.second - new.first == pytest.approx(0.25)
    assert new.low < 0.25 < new.high
    assert (every.episodes, every.only_first, every.only_second) == (80, 10, 20)
    assert every.runs == (1, 1)
    values = json.loads(json.dumps(new.to_json()))
    assert values["difference"] == pytest.approx(0.25)
    assert len(new.row()) == len(compare.HEADER)
    assert new.row()[3] == "+25.0%"


def test_one_split_has_no_line_for_all(episodes):
    found = compare.compare({"A": episodes(seen=[1, 0])}, {"B": episodes(seen=[1, 1])})
    assert [d.split for d in found] == ["seen"]


def test_of_several_runs_the_run_is_the_unit(episodes):
    counts = {"A": (20, 24, 22), "B": (30, 29, 33)}
    sides = [
        {f"{name}{k}": episodes(seen=[1] * n + [0] * (40 - n)) for k, n in enumerate(side)}
        for name, side in counts.items()
    ]
    (found,) = compare.compare(*sides)
    rates = [np.array(side) / 40 for side in counts.values()]
    expected = stats.ttest_ind(rates[1], rates[0], equal_var=False)
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert (found.runs, found.only_first, found.only_second) == ((3, 3), None, None)
    # Episodes pooled over runs would claim more than three runs can say.
    pooled = compare.paired_interval(66, 0, 26, 28)
    assert found.high - found.low > pooled[1] - pooled[0]


def test_one_run_against_several_has_a_difference_and_no_test(episodes):
    several = {"B1": episodes(seen=[1, 1, 0]), "B2": episodes(seen=[1, 0, 0])}
    (found,) = compare.compare({"A": episodes(seen=[0, 0, 0])}, several)
    assert found.second - found.first == pytest.approx(0.5)
    assert math.isnan(found.p)
    assert found.to_json()["p"] is None
    assert found.row()[4:8] == ("one run", "-", "-", "-")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"seen": [1, 1, 1]}, "found 3, 0 missing and 1 others; the first of them: seen 2"),
        ({"seen": [1]}, "expected the 2 of A, found 1, 1 missing and 0 others"),
        ({"new": [1, 1]}, "did not play the same episodes"),
        ({"seen": [1, 1], "start": "t"}, "the episode seen 0 .* began differently"),
    ],
)
def test_other_episodes_are_refused(episodes, other, message):
    with pytest.raises(UserError, match=message):
        compare.compare({"A": episodes(seen=[1, 0])}, {"B": episodes(**other)})


def test_nothing_to_compare_is_refused():
    with pytest.raises(UserError, match="expected episodes to compare, found none"):
        compare.compare({"A": []}, {"B": []})


def test_welch_is_that_of_the_formula_and_says_nothing_of_one_seed():
    a, b = np.array((0.50, 0.52, 0.48)), np.array((0.55, 0.45, 0.53))
    va, vb = a.var(ddof=1) / 3, b.var(ddof=1) / 3
    error = np.sqrt(va + vb)
    freedom = (va + vb) ** 2 / (va**2 / 2 + vb**2 / 2)
    low, high, p = compare.welch(a.tolist(), b.tolist())
    t = (b.mean() - a.mean()) / error
    assert p == pytest.approx(2 * stats.t.sf(abs(t), freedom))
    reach = stats.t.ppf(0.975, freedom) * error
    assert (low, high) == pytest.approx((b.mean() - a.mean() - reach, b.mean() - a.mean() + reach))
    assert compare.welch([0.2, 0.2, 0.2], b.tolist())[2] < 0.05  # and no warning
    assert np.isnan(compare.welch([0.1], [0.2, 0.3])).all()
    assert np.isnan(compare.welch([0.0, 0.0], [1.0, 1.0])).all()

"""Formats of others have no checksums: how much of what is flipped in them is noticed all the same.

The tally over many seeds: python tests/hostile/matrix.py --subjects=libero --flips=300
"""

import matrix
import numpy as np
import pytest


@pytest.mark.parametrize("name", ["lerobot", "lerobot film", "lerobot v2"])
def test_flipped_bits_of_lerobot_are_nearly_all_noticed_or_harmless(tmp_path, name):
    bench = matrix.Bench(name, tmp_path)
    cases = list(bench.flips(np.random.default_rng(1), 30))
    assert [str(case) for case in cases if case.outcome in matrix.BAD] == []
    assert sum(case.outcome == "refused" for case in cases) > 10
    # What is left: the last bits of numbers, which no statistic shows, and of pixels in films.
    assert sum(case.outcome == "uncovered" for case in cases) <= 3

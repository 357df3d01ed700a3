"""Formats of others, damaged in every way: one line, or as before; what has no checksum is counted.

The tally over many seeds: python tests/hostile/matrix.py --subjects=libero --flips=300
"""

import matrix
import numpy as np
import pytest

INGESTED = ("lerobot", "lerobot film", "lerobot v2", "libero")


@pytest.mark.parametrize("name", INGESTED)
def test_every_kind_of_damage_is_told_or_harmless(tmp_path, name):
    cases = list(matrix.run([name], tmp_path, seed=0, most=2))
    assert [str(case) for case in cases if case.outcome in matrix.BAD] == []
    assert {case.damage.kind for case in cases} >= {"truncate", "empty", "flip", "absent"}
    assert sum(case.outcome == "refused" for case in cases) > len(cases) / 2


@pytest.mark.parametrize("name", INGESTED[:3])
def test_flipped_bits_of_lerobot_are_nearly_all_noticed_or_harmless(tmp_path, name):
    bench = matrix.Bench(name, tmp_path)
    cases = list(bench.flips(np.random.default_rng(1), 30))
    assert [str(case) for case in cases if case.outcome in matrix.BAD] == []
    # What is left: the last bits of numbers, which no statistic shows, and of pixels in films.
    assert sum(case.outcome == "uncovered" for case in cases) <= 3

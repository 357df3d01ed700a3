import types

import numpy as np
import pytest

from vla_jax.core.batch import Example
from vla_jax.data import ledger
from vla_jax.data.mixture import MixtureConfig, RobotConfig
from vla_jax.data.skipped import Skipped
from vla_jax.data.web.table import WebConfig


class Source:
    """Targets of 3 or 5 tokens, one of them supervised."""

    def __init__(self, name, kind, size, episodes):
        self.name, self.kind, self.size, self.episodes = name, kind, size, episodes

    def __len__(self):
        return self.size

    def example(self, i, draw=0):
        return Example(images={}, prefix=str(i), suffix="x", dataset=self.name, episode=i)


class Encoder:
    layout = types.SimpleNamespace(prefix=4, suffix=2)

    def check(self, example):
        """Any text will do."""

    def encode(self, example):
        length = 2 if example.dataset == "web" else 4
        return np.array([0, 0, 0, 0, 9, 0]), length, np.arange(6) == 4


SOURCES = (
    Source("bridge_orig", "robot", 3000, 100),
    Source("tabletop", "robot", 1000, 50),
    Source("web", "web", 400, 400),
)


def entries(**changes):
    config = MixtureConfig(
        name=None,
        robots={"bridge_orig": RobotConfig(weight=0.5), "tabletop": RobotConfig(weight=1.5)},
        web={"web": WebConfig(layout="qa", dir=".")},
        **{"robot_share": 0.6, **changes},
    )
    return ledger.entries(config, SOURCES, Encoder(), Skipped(None), batch_size=10, steps=1000)


def test_shares_are_told_as_requested_as_effective_and_as_drawn():
    bridge, tabletop, web = entries()
    assert [e.weight for e in (bridge, tabletop, web)] == [0.5, 1.5, 1.0]
    assert [e.requested for e in (bridge, tabletop, web)] == pytest.approx([0.15, 0.45, 0.4])
    # As multipliers the weights count 3000 * 0.5 and 1000 * 1.5 frames: the same.
    assert [e.effective for e in (bridge, tabletop, web)] == pytest.approx([0.3, 0.3, 0.4])
    for entry in (bridge, tabletop, web):
        assert entry.realised == pytest.approx(entry.effective, abs=1e-3)
    assert sum(e.drawn for e in (bridge, tabletop, web)) == 10_000
    assert web.epochs == pytest.approx(web.drawn / 400) == 10
    assert (bridge.examples, bridge.episodes) == (3000, 100)


def test_absolute_weights_are_the_shares():
    bridge, tabletop, _ = entries(weights="absolute")
    assert bridge.effective == bridge.requested == pytest.approx(0.15)
    assert tabletop.realised == pytest.approx(0.45, abs=1e-3)


def test_a_schedule_counts_over_the_whole_run():
    bridge, tabletop, web = entries(schedule=((0, 0.2), (999, 1.0)))
    assert bridge.effective + tabletop.effective == pytest.approx(0.6)
    assert web.realised == pytest.approx(0.4, abs=1e-3)


def test_what_is_left_out_is_counted_by_reason():
    some, whole = Source("bridge_orig", "robot", 3000, 100), Source("tabletop", "robot", 1000, 50)
    some.dropped = {"not kept by the adapter": 1200, "without an instruction": 0}
    whole.dropped = {"not kept by the adapter": 0}
    assert ledger.left_out([some, whole]) == [
        "bridge_orig: 1,200 of 4,200 steps are left out: 1,200 not kept by the adapter"
    ]


def test_tokens_leave_padding_out():
    bridge, _, web = entries()
    assert bridge.tokens == bridge.drawn * 5
    assert web.tokens == web.drawn * 3
    assert web.supervised == web.drawn
    assert len(web.row()) == len(ledger.HEADER)

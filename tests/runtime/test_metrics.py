import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX import proto

from vla_jax.core import errors
from vla_jax.runtime import metrics


def write(workdir, steps, start_step=0):
    with metrics.MetricWriter(workdir, start_step) as writer:
        for step in steps:
            writer.write(step, {"train/loss": 1 / step, "rate": jnp.float32(0.5)})


def test_what_is_written_is_read(tmp_path):
    write(tmp_path / "run", [1, 2])
    assert metrics.read(tmp_path / "run") == [
        {"step": 1, "train/loss": 1.0, "rate": 0.5},
        {"step": 2, "train/loss": 0.5, "rate": 0.5},
    ]


def test_nothing_written_is_nothing_read(tmp_path):
    assert metrics.read(tmp_path) == []


def test_a_line_is_on_disk_when_write_returns(tmp_path):
    with metrics.MetricWriter(tmp_path) as writer:
        writer.write(np.int64(1), {"loss": 2})
        assert metrics.read(tmp_path) == [{"step": 1, "loss": 2.0}]


@pytest.mark.parametrize("cut", ['{"step": 6, "train/lo', '{"step": 6}'])
def test_a_resumed_run_leaves_the_file_of_a_straight_run(tmp_path, cut):
    write(tmp_path / "straight", range(1, 9))
    write(tmp_path / "killed", range(1, 6))
    with (tmp_path / "killed" / metrics.FILE).open("a") as file:
        file.write(cut)
    write(tmp_path / "killed", range(5, 9), start_step=4)
    straight, killed = (tmp_path / name / metrics.FILE for name in ("straight", "killed"))
    assert killed.read_bytes() == straight.read_bytes()


def test_a_whole_line_without_its_newline_is_kept(tmp_path):
    (tmp_path / metrics.FILE).write_text('{"step": 1}')
    write(tmp_path, [2], start_step=1)
    assert [row["step"] for row in metrics.read(tmp_path)] == [1, 2]


@pytest.mark.parametrize("line", ["x", "3", '{"loss": 1}'])
def test_a_line_that_is_no_metric_is_named(tmp_path, line):
    (tmp_path / metrics.FILE).write_text(line + '\n{"step": 1}\n')
    with pytest.raises(errors.UserError, match=r"line 1(:|, field step).*Remove the line"):
        metrics.read(tmp_path)


def test_tensorboard_gets_the_same_values(tmp_path):
    write(tmp_path, [2])
    (path,) = (tmp_path / "events").iterdir()
    data, values = path.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        event = proto.event_pb2.Event.FromString(data[12 : 12 + size])
        values += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        data = data[12 + size + 4 :]
    assert values == [(2, "train/loss", 0.5), (2, "rate", 0.5)]


class Wandb(types.ModuleType):
    """What of Weights & Biases is used, remembering what it was given."""

    def __init__(self):
        super().__init__("wandb")
        self.opened, self.lines, self.finished = [], [], 0

    def init(self, **settings):
        self.opened.append(settings)
        return self

    def define_metric(self, name, *, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, values):
        self.lines.append(values)

    def finish(self):
        self.finished += 1


def test_wandb_gets_every_line_on_one_page_over_a_resumption(tmp_path, monkeypatch):
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    config = metrics.MetricsConfig(wandb="lab/arms")
    workdir = tmp_path / "run"
    for start in (0, 2):
        with metrics.MetricWriter(workdir, start, config, {"seed": 3}) as writer:
            writer.write(start + 2, {"loss": 0.5})
    assert wandb.lines == [{"step": 2, "loss": 0.5}, {"step": 4, "loss": 0.5}]
    assert wandb.finished == 2
    assert wandb.opened[0] == wandb.opened[1]
    expected = {"project": "arms", "entity": "lab", "resume": "allow"}
    assert expected.items() <= wandb.opened[0].items()
    assert wandb.opened[0]["config"] == {"seed": 3}
    with metrics.MetricWriter(tmp_path / "other", 0, config):
        assert wandb.opened[2]["id"] != wandb.opened[0]["id"]


def test_wandb_is_not_imported_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import raises
    with metrics.MetricWriter(tmp_path, 0, metrics.MetricsConfig()) as writer:
        writer.write(1, {"loss": 0.5})
    with pytest.raises(errors.UserError, match=r"config\.metrics\.wandb=arms: .*pip install wandb"):
        metrics.MetricWriter(tmp_path, 0, metrics.MetricsConfig(wandb="arms"))

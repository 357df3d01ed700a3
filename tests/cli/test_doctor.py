"""The verb: table, page and exit code."""

import cv2
import numpy as np
import pytest

from vla_jax.data.records import import_tfds, write_dataset
from vla_jax.data.robots.robot import Robot
from vla_jax.data.robots.standardize import end_effector_spec

EPISODES, STEPS = 6, 24


def push():
    """An adapter outside the table."""
    return Robot(
        name="push",
        images={"primary": "steps/image"},
        instruction=("steps/instruction",),
        arrays=("steps/action",),
        action=lambda columns: columns["steps/action"],
        spec=end_effector_spec(frame="base", control_hz=5.0),
        source="this test",
    )


@pytest.fixture(scope="session")
def write(tmp_path_factory):
    def write(name="push", sick=False):
        """Writes a dataset; a sick one has a NaN at step 5 of episode 2."""
        tfds = import_tfds()
        rng = np.random.default_rng(0)
        step = {
            "image": tfds.features.Image(shape=(16, 16, 3), encoding_format="jpeg"),
            "action": tfds.features.Tensor(shape=(7,), dtype=np.float32),
            "instruction": tfds.features.Text(),
        }

        def episode(number):
            action = rng.uniform(-0.02, 0.02, (STEPS, 7)).astype(np.float32)
            action[:, 6] = np.arange(STEPS) < STEPS // 2
            if sick and number == 2:
                action[5, 0] = np.nan
            pictures = rng.integers(0, 255, (STEPS, 16, 16, 3), np.uint8)
            said = ("push the cube", "push the star")[number % 2]
            return {
                "steps": [
                    {
                        "image": cv2.imencode(".jpg", picture)[1].tobytes(),
                        "action": values,
                        "instruction": said,
                    }
                    for picture, values in zip(pictures, action, strict=True)
                ]
            }

        directory = tmp_path_factory.mktemp("data") / name / "1.0.0"
        directory.mkdir(parents=True)
        write_dataset(
            directory,
            name=name,
            features=tfds.features.FeaturesDict({"steps": tfds.features.Dataset(step)}),
            splits={"train": (map(episode, range(EPISODES)), EPISODES)},
            version="1.0.0",
            description="for tests",
        )
        return directory

    return write


@pytest.fixture(scope="session")
def healthy(write):
    return write()


def rows(out):
    """check -> severity, as printed."""
    cells = [[c.strip() for c in line.split("│")[1:-1]] for line in out.splitlines()]
    return {line[0]: line[1] for line in cells if len(line) == 4 and line[0]}


def test_a_healthy_dataset_exits_with_0_and_leaves_a_page(vla_jax, healthy, tmp_path):
    robot = f"--robot={__name__}:push"
    code, out, err = vla_jax("doctor", healthy, robot, f"--out={tmp_path / 'out'}")
    assert (code, err) == (0, ""), out
    assert "push 1.0.0, split train: 100 of 100, A" in out
    assert set(rows(out).values()) == {"ok"}
    assert f"report: {tmp_path / 'out' / 'report.html'}" in out
    assert (tmp_path / "out" / "report.html").read_text().startswith("<!doctype html>")


def test_a_sick_dataset_exits_with_2_after_its_report(vla_jax, write, tmp_path):
    robot = f"--robot={__name__}:push"
    code, out, err = vla_jax("doctor", write(sick=True), robot, f"--out={tmp_path}")
    assert (code, err) == (2, "")
    assert rows(out)["finite numbers"] == "error"
    assert "episode 2 step 5" in out
    assert (tmp_path / "report.html").is_file()


def test_the_adapter_is_found_by_the_name_of_the_dataset(vla_jax, write, tmp_path):
    """This is no tabletop dataset, so that tabletop's adapter cannot fit."""
    code, out, _ = vla_jax("doctor", write("tabletop"), f"--out={tmp_path}")
    assert code == 2
    assert rows(out)["schema"] == "error"


def test_a_question_set_is_examined_for_what_it_has(vla_jax, tmp_path):
    f = import_tfds().features
    picture = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    directory = tmp_path / "asked" / "1.0.0"
    directory.mkdir(parents=True)
    write_dataset(
        directory,
        name="asked",
        features=f.FeaturesDict({"image": f.Image(shape=(16, 16, 3)), "question": f.Text()}),
        splits={"train": (iter([{"image": picture, "question": "which"}]), 1)},
        version="1.0.0",
        description="for tests",
    )
    code, out, _ = vla_jax("doctor", directory, f"--out={tmp_path / 'out'}")
    assert code == 0
    assert rows(out) == {"schema": "note", "records": "ok", "pictures": "ok"}


def test_without_an_adapter_it_says_so(vla_jax, healthy, tmp_path):
    code, out, _ = vla_jax("doctor", healthy, f"--out={tmp_path}", "--all")
    assert code == 0
    assert rows(out)["schema"] == "note"
    assert "name one with --robot" in out


def test_the_report_goes_to_a_folder_named_after_the_dataset(
    vla_jax, healthy, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    vla_jax("doctor", healthy, f"--cache-dir={tmp_path / 'cache'}")
    assert (tmp_path / "doctor_push" / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected the arguments DATASET_DIR"),
        (["nowhere"], "nowhere"),
        (["DATA", "--split=test"], "no split 'test'"),
        (["DATA", "--robot=bridge_origg"], "'bridge_orig'"),
    ],
)
def test_a_mistake_exits_with_1(refused, healthy, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused("doctor", *[healthy if a == "DATA" else a for a in arguments])
    assert not list(tmp_path.iterdir())

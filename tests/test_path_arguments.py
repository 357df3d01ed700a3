"""Wherever a path is taken, a text, a `pathlib.Path` and one that begins with `~` are the same."""

import json
import pathlib
import sys

import cv2
import numpy as np
import pytest

TESTS = pathlib.Path(__file__).parent
sys.path[:0] = [str(TESTS), str(TESTS / "data/ingest"), str(TESTS / "data/web")]

import question_files  # noqa: E402
import source_files  # noqa: E402
import untrained_run  # noqa: E402

from vla_jax.cli import act  # noqa: E402
from vla_jax.core import files, json_file  # noqa: E402
from vla_jax.data import indexing, schema  # noqa: E402
from vla_jax.data.doctor import examination  # noqa: E402
from vla_jax.data.ingest.lerobot import LeRobot  # noqa: E402
from vla_jax.data.ingest.libero import Libero  # noqa: E402
from vla_jax.data.ingest.options import Options  # noqa: E402
from vla_jax.data.web.table import WebConfig, open_web  # noqa: E402
from vla_jax.envs.tabletop import datasets  # noqa: E402
from vla_jax.envs.tabletop.demonstrations import DemonstrationsConfig  # noqa: E402
from vla_jax.envs.tabletop.questions import QuestionsConfig  # noqa: E402
from vla_jax.eval import record  # noqa: E402
from vla_jax.experiment import comparison, config_file, stored  # noqa: E402
from vla_jax.experiment.workdir import Workdir  # noqa: E402
from vla_jax.runtime import metrics, storage  # noqa: E402
from vla_jax.tokens.tokenizer import Tokenizer  # noqa: E402

SMALL = datasets.DatasetsConfig(
    image_size=16,
    demonstrations=DemonstrationsConfig(episodes=2),
    questions=QuestionsConfig(train=4, validation=2),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home directory with one of everything."""
    root = tmp_path_factory.mktemp("home")
    made = datasets.ensure(SMALL, root / "data", workers=1)
    (root / "robot").symlink_to(made.robot)
    source_files.lerobot(root / "lerobot", filmed=False)
    source_files.libero(root / "lift_demo.hdf5", episodes=1)
    lines = [{"image": "images/0.jpg", "question": "what", "answers": ["a", "b"]}]
    question_files.write_lines(root / "web/train.jsonl", lines)
    Workdir(root / "run").claim(untrained_run.run_config(root / "data"))
    Tokenizer.train(["pick up"], 300, 4).save(root / "tokenizer.json")
    files.write_whole(root / "one.json", b"{}")
    row = {"split": "a", "seed": 0, "options": {}, "start": "0", "instruction": "go"}
    row |= {"success": True, "steps": 1, "info": {}}
    for name in ("run", "other"):
        (root / name).mkdir(exist_ok=True)
        (root / name / record.FILE).write_text(json.dumps(row))
        results = {"environment": {"name": "tabletop"}}
        (root / name / "results.json").write_text(json.dumps(results))
    (root / "run/metrics.jsonl").write_text('{"step": 1}\n')
    (root / "config.py").write_text((TESTS.parent / "configs/tabletop.py").read_text())
    cv2.imwrite(str(root / "a.png"), np.zeros((4, 4, 3), np.uint8))
    return root


def write(path):
    files.write_whole(path, b"a")


CALLS = {
    "index": ("robot", lambda path: len(indexing.ensure(path))),
    "schema": ("robot", lambda path: sorted(schema.read_schema(path))),
    "splits": ("robot", lambda path: sorted(schema.read_splits(path))),
    "doctor": ("robot", lambda path: len(examination.examine(path).findings)),
    "generated": ("data", lambda path: datasets.ensure(SMALL, path, workers=1).robot),
    "web": ("web", lambda path: len(open_web("x", WebConfig(format="jsonl"), directory=path))),
    "lerobot": ("lerobot", lambda path: len(LeRobot(path, Options()))),
    "libero": ("lift_demo.hdf5", lambda path: len(Libero(path, Options()))),
    "workdir": ("run", lambda path: Workdir(path).config()),
    "metrics": ("run", metrics.read),
    "results": ("run", stored.results),
    "records": (f"run/{record.FILE}", record.read),
    "tokenizer": ("tokenizer.json", lambda path: Tokenizer.load(path).size),
    "save": ("saved.json", lambda path: Tokenizer.train(["a"], 300, 4).save(path)),
    "json": ("one.json", lambda path: json_file.read(path, dict)),
    "write": ("written", write),
    "exists": ("one.json", storage.exists),
    "contents": ("one.json", storage.contents),
    "names": ("robot", storage.names),
    "config": ("config.py", config_file.load),
    "picture": ("a.png", lambda path: act.read_image(path).shape),
    "compare": ("run", lambda path: len(comparison.compare_runs([path], [path]))),
}


@pytest.mark.parametrize("name", CALLS)
def test_text_path_and_tilde_are_the_same(home, monkeypatch, tmp_path, name):
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)  # where a folder called ~ would be seen
    file, call = CALLS[name]
    texts = (f"{home}/{file}", f"~/{file}")
    found = [call(kind(text)) for text in texts for kind in (str, pathlib.Path)]
    assert found.count(found[0]) == len(found)
    assert list(tmp_path.iterdir()) == []

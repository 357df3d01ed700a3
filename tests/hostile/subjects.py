"""What the package reads: how a small one is made, and what reading all of it gives."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

TESTS = pathlib.Path(__file__).resolve().parents[1]
# Modules that other tests have, too.
sys.path[:0] = [str(TESTS), *(str(TESTS / name) for name in ("policy", "data/web", "data/ingest"))]

import untrained_run  # noqa: E402

from vla_jax.core import trees  # noqa: E402
from vla_jax.data import images, indexing  # noqa: E402
from vla_jax.data.episodes import Episodes  # noqa: E402
from vla_jax.data.robots.tabletop import TABLETOP  # noqa: E402
from vla_jax.data.web.table import WebConfig, open_web  # noqa: E402
from vla_jax.envs.tabletop import datasets  # noqa: E402
from vla_jax.envs.tabletop.demonstrations import DemonstrationsConfig  # noqa: E402
from vla_jax.envs.tabletop.questions import QuestionsConfig  # noqa: E402

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
INSTRUCTION = "pick up the red cube"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """One kind of folder that the package reads.

    Attributes:
      make: writes it into a folder.
      use: reads all of it and returns plain values. What it returns must be equal whenever nothing
        that counts was changed.
      files: which of its files are damaged, as patterns.
      uncovered: kinds of damage whose silence nobody can notice, and why: the format has no
        checksum.
    """

    make: Callable[[pathlib.Path], Any]
    use: Callable[[pathlib.Path], Any]
    files: tuple[str, ...] = ("**/*",)
    uncovered: Mapping[str, str] = dataclasses.field(default_factory=dict)


def _generate(folder):
    config = datasets.DatasetsConfig(
        image_size=16,
        demonstrations=DemonstrationsConfig(episodes=4),
        questions=QuestionsConfig(train=12, validation=4),
    )
    return datasets.ensure(config, folder, workers=1)


def _make_robot(folder):
    _generate(folder)


def _make_robot_indexed(folder):
    _generate(folder)
    _use_robot(folder)


def _version(folder, name):
    """The version directory of a dataset, whether or not its metadata are there."""
    (directory,) = folder.glob(f"{name}/*/*")
    return directory


def _use_robot(folder):
    directory = _version(folder, "tabletop")
    episodes = Episodes(indexing.ensure(directory), TABLETOP)
    examples = [episodes.example(i) for i in range(len(episodes))]
    texts, pixels = episodes.texts(), [_pixels(example) for example in examples]
    return [examples, episodes.statistics(), texts, episodes.fingerprint, pixels]


def _make_web(folder):
    _generate(folder)


def _make_web_indexed(folder):
    _generate(folder)
    _use_web(folder)


def _use_web(folder):
    return _questions(_version(folder, "tabletop_questions"), WebConfig())


def _questions(directory, config):
    web = open_web("x", config, directory=directory)
    examples = [web.example(i) for i in range(len(web))]
    return [examples, web.fingerprint, [_pixels(example) for example in examples]]


def _pixels(example):
    return [
        images.decode(data, "image")
        for window in example.images.values()
        for data in window
        if data
    ]


def _make_jsonl(folder):
    from question_files import write_lines

    lines = [
        {"image": f"images/{i}.jpg", "question": f"what is {i}", "answers": ["a", str(i)]}
        for i in range(5)
    ]
    write_lines(folder / "train.jsonl", lines)
    _use_jsonl(folder)


def _use_jsonl(folder):
    return _questions(folder, WebConfig(format="jsonl"))


def _make_tar(folder):
    from question_files import picture, write_tar

    files = []
    for i in range(6):
        fields = {"question": f"what is {i}", "answers": ["a", str(i)]}
        files += [(f"{i:03d}.jpg", picture(i)), (f"{i:03d}.json", json.dumps(fields).encode())]
    write_tar(folder / "train-000000.tar", files)
    _use_tar(folder)


def _use_tar(folder):
    return _questions(folder, WebConfig(format="webdataset"))


def _make_run(folder):
    untrained_run.write(folder)


def _use_run(folder):
    from vla_jax.experiment import load
    from vla_jax.experiment.workdir import Workdir

    run = load.open_run(Workdir(folder / "run"))
    action = run.policy().act({"primary": PIXELS}, INSTRUCTION)
    # One forward pass does not show every bit of the parameters.
    return [action.values, action.tokens, run.step, run.trained]


def _make_report(folder):
    from vla_jax.eval import record
    from vla_jax.eval.rate import Rate
    from vla_jax.experiment import trials
    from vla_jax.experiment.workdir import write_json
    from vla_jax.runtime.metrics import MetricWriter

    run = untrained_run.write(folder)
    config = json.loads((run / "config.json").read_text())
    config["loop"]["log_every"] = 3
    write_json(run / "config.json", config)
    code = {"revision": "00ff", "versions": {"jax": "1"}}
    records = [
        record.Record(
            split="seen" if k < 6 else "color",
            seed=k,
            options={"task": ("pick", "push")[k % 2]},
            start=f"{k:x}",
            instruction="go",
            success=k % 3 > 0,
            steps=3 + k,
            info={"wrong_block": k % 2 > 0},
        )
        for k in range(9)
    ]
    known = {"name": "tabletop", "image_size": 64}
    results = {
        "success": {k: v.to_json() for k, v in trials.success(records).items()},
        "wrong_block": {k: v.to_json() for k, v in trials.wrong_block(records).items()},
        "vqa": {k: Rate.of([True, False, True]).to_json() for k in ("count", "where")},
        "open_loop": {"error/x": 0.01, "token_accuracy": 0.5, "nll": 1.5},
        "quantisation": {"x": 0.001},
        "latency": {"decode_ms": 3.5},
        "environment": known | {"digest": trials.digest(known, records)},
        "film": [{"split": "seen", "seed": 1, "instruction": "go", "success": True, "steps": 4}],
        "code": code,
        "train": {"steps": 7, "seconds": 14.0, "samples_per_s": 3.5},
    }
    elsewhere = results | {"environment": {"name": "metaworld"}, "evaluated": {"step": 7}}
    for place, found in ((run, results), (run / "evaluation" / "metaworld", elsewhere)):
        record.write(place / record.FILE, records)
        write_json(place / "results.json", found)
    origin = {"command": "vla-jax train", "config": "a.py", "overrides": ["a: 1 -> 2"]}
    write_json(run / "origin.json", origin | {"code": code})
    counts = dict.fromkeys(("examples", "episodes", "drawn"), 3)
    shares = ("weight", "requested", "effective", "realised", "epochs", "tokens", "supervised")
    entry = {"name": "tabletop", **dict.fromkeys(shares, 0.5), **counts}
    write_json(run / "mixture.json", {"sources": [entry], "left_out": ["tabletop: 3 steps"]})
    with MetricWriter(run) as writer:
        for step in (1, 4, 7):
            writer.write(step, {"loss/tabletop": 1.0 / step, "success/seen": 0.1 * step})


def _use_report(folder):
    from vla_jax.experiment import page
    from vla_jax.experiment.workdir import Workdir

    return page.write(Workdir(folder / "run")).read_text()


_STATE = {"a": np.arange(300, dtype=np.float32), "b": {"c": np.full((4, 5), 2.5, np.float32)}}


def _make_checkpoints(folder):
    from vla_jax.runtime.checkpoint import CheckpointConfig, Checkpoints

    with Checkpoints(folder / "checkpoints", CheckpointConfig(keep=2)) as checkpoints:
        for step in (3, 6):
            state = trees.map_with_name(lambda name, leaf, step=step: leaf + step, _STATE)
            checkpoints.save(step, {"params": state}, {"seconds": 1.0 * step, "position": step})


def _use_checkpoints(folder):
    import jax

    from vla_jax.runtime.checkpoint import CheckpointConfig, Checkpoints

    abstract = jax.eval_shape(lambda: _STATE)
    with Checkpoints(folder / "checkpoints", CheckpointConfig(keep=2)) as checkpoints:
        step, state, position = checkpoints.restore({"params": abstract})
    return [step, state, position]


def _make_export(folder):
    import small_policies

    built = small_policies.build_policy(small_policies.CONFIGS["pyramid"])
    small_policies.export(built, folder / "export", small_policies.look_around(built, 4))


def _use_export(folder):
    import torch
    from torch_policy import TorchPolicy

    torch.set_num_threads(1)
    policy = TorchPolicy.load(folder / "export", unchecked=True)
    action = policy.act({"primary": PIXELS}, INSTRUCTION)
    return [action.values, action.tokens]


def _make_fast(folder):
    import small_policies

    _, actions = small_policies.fast_tokens()
    actions["tabletop"].fast.save(folder / "fast", (3, 8))


def _use_fast(folder):
    from vla_jax.tokens.fast import Fast

    fast = Fast.load(folder / "fast")
    return fast.decode(fast.encode(np.linspace(-1, 1, 24).reshape(1, 3, 8))[0], 8)


def _make_npz(folder):
    folder.joinpath("pg1.npz").write_bytes((TESTS / "models/data/pg1.npz").read_bytes())


def _use_npz(folder):
    from vla_jax.models import pretrained

    return pretrained.load(str(folder / "pg1.npz")).params


def _make_safetensors(folder):
    import small_policies

    built = small_policies.build_policy(small_policies.CONFIGS["paligemma2"])
    seen = small_policies.look_around(built, 4)
    small_policies.export(built, folder / "paligemma", seen, "hf_paligemma", shard_bytes=60_000)


def _use_safetensors(folder):
    from vla_jax.models import pretrained

    return pretrained.load(str(folder / "paligemma")).params


def _ingested(reader):
    from vla_jax.data.ingest.episode import Checks

    checks = Checks()
    found = [checks(reader.episode(i)) for i in range(len(reader))]
    return [[each.arrays, each.images, each.instructions, each.terminal] for each in found]


def _make_lerobot(folder):
    import source_files

    source_files.lerobot(folder / "set", filmed=False)


def _make_filmed(folder):
    import source_files

    source_files.lerobot(folder / "set", filmed=True)


def _make_lerobot_v2(folder):
    import source_files

    source_files.lerobot_v2(folder / "set")


def _use_lerobot(folder):
    from vla_jax.data.ingest.lerobot import LeRobot
    from vla_jax.data.ingest.options import Options

    return _ingested(LeRobot(folder / "set", Options()))


def _make_libero(folder):
    import source_files

    source_files.libero(folder / "pick_up_demo.hdf5", episodes=2)


def _use_libero(folder):
    from vla_jax.data.ingest.libero import Libero
    from vla_jax.data.ingest.options import Options

    return _ingested(Libero(folder, Options()))


def _make_evaluations(folder):
    from vla_jax.eval import record
    from vla_jax.experiment import trials

    for name, shift in (("a", 0), ("b", 1)):
        rows = [
            record.Record(
                split="seen",
                seed=k,
                options={"task": "pick"},
                start=f"{k:x}",
                instruction="go",
                success=(k + shift) % 3 > 0,
                steps=3 + k,
                info={},
            )
            for k in range(6)
        ]
        record.write(folder / name / record.FILE, rows)
        known = {"name": "tabletop"}
        environment = known | {"digest": trials.digest(known, rows)}
        results = {"environment": environment, "evaluated": {}}
        (folder / name / "results.json").write_text(json.dumps(results))


def _use_evaluations(folder):
    from vla_jax.experiment import comparison

    found = comparison.compare_runs([str(folder / "a")], [str(folder / "b")])
    return [difference.to_json() for difference in found]


_FOREIGN = "others write this format without checksums"
_NO_SUM = "people read and mend these files"
SUBJECTS: Mapping[str, Subject] = {
    "robot data": Subject(make=_make_robot, use=_use_robot, files=("tabletop/*/*/*",)),
    "robot index": Subject(make=_make_robot_indexed, use=_use_robot, files=("tabletop/**/*",)),
    "web data": Subject(make=_make_web, use=_use_web, files=("tabletop_questions/*/*/*",)),
    "web index": Subject(make=_make_web_indexed, use=_use_web, files=("tabletop_questions/**/*",)),
    "jsonl": Subject(make=_make_jsonl, use=_use_jsonl),
    "tar": Subject(make=_make_tar, use=_use_tar),
    "checkpoints": Subject(make=_make_checkpoints, use=_use_checkpoints),
    "run": Subject(make=_make_run, use=_use_run),
    "report": Subject(
        make=_make_report,
        use=_use_report,
        # config.json is one of "run", too; where another value is as good, the page shows it.
        files=("run/[!c]*.json", "run/*.jsonl", "run/evaluation/**/*.json*"),
        uncovered={"flip": _NO_SUM},
    ),
    "export": Subject(make=_make_export, use=_use_export),
    "fast": Subject(make=_make_fast, use=_use_fast, uncovered={"flip": _FOREIGN, "type": _FOREIGN}),
    "npz": Subject(make=_make_npz, use=_use_npz),
    "safetensors": Subject(
        make=_make_safetensors,
        use=_use_safetensors,
        files=("**/config.json", "**/*.safetensors", "**/*.index.json"),
        uncovered={"flip": _FOREIGN, "type": _FOREIGN},
    ),
    "lerobot": Subject(make=_make_lerobot, use=_use_lerobot, uncovered={"flip": _FOREIGN}),
    "lerobot film": Subject(make=_make_filmed, use=_use_lerobot, uncovered={"flip": _FOREIGN}),
    "lerobot v2": Subject(make=_make_lerobot_v2, use=_use_lerobot, uncovered={"flip": _FOREIGN}),
    "libero": Subject(make=_make_libero, use=_use_libero, uncovered={"flip": _FOREIGN}),
    "evaluations": Subject(
        make=_make_evaluations, use=_use_evaluations, uncovered={"flip": _FOREIGN}
    ),
}

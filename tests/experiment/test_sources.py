"""How the datasets of a run are found and opened: where they lie, their parts, which in blocks."""

import io
import json
import os
import tarfile

import cv2
import fsspec
import generate
import numpy as np
import pytest

from vla_jax.core.errors import UserError
from vla_jax.data.blocks import BlocksConfig
from vla_jax.data.loader import LoaderConfig
from vla_jax.data.mixture import MixtureConfig, RobotConfig
from vla_jax.data.web.table import WebConfig
from vla_jax.experiment import sources
from vla_jax.experiment.config import RunConfig

BUDGET = 10**6


def tar(count):
    """An archive of pictures with questions."""
    image = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for i in range(count):
            text = json.dumps({"question": f"which {i}?", "answer": str(i)}).encode()
            for extension, data in (("jpg", image), ("json", text)):
                info = tarfile.TarInfo(f"{i}.{extension}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return target.getvalue()


@pytest.fixture(params=["remote", "local"])
def directory(request, tmp_path):
    """A set of 12 training and 3 held-out questions."""
    files = {"train.tar": tar(12), "validation.tar": tar(3)}
    if request.param == "local":
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        yield str(tmp_path)
        return
    memory = fsspec.filesystem("memory")
    for name, data in files.items():
        memory.pipe_file(f"memory://asked/{name}", data)
    yield "memory://asked"
    memory.rm("/asked", recursive=True)


def test_training_questions_on_a_server_are_read_in_blocks(directory, tmp_path):
    config = RunConfig(
        cache_dir=str(tmp_path / "indexes"),
        mixture=MixtureConfig(
            robot_share=0.0,
            name=None,
            web={"asked": WebConfig(dir=directory, format="webdataset", layout="qa")},
        ),
        loader=LoaderConfig(blocks=BlocksConfig(budget=BUDGET)),
    )
    data = sources.open_data(config, lambda *_: None)
    asked, held_out = data.web["asked"], data.web_held_out["asked"]
    assert asked.ram == (BUDGET if directory.startswith("memory:") else 0)
    assert held_out.ram == 0
    numbers, _ = asked.shuffle(0, 12, 0)
    assert sorted(asked.example(i).prefix for i in numbers) == sorted(
        f"which {i}?" for i in range(12)
    )
    assert len(held_out) == 3


def robot_config(root, **changes):
    loader = LoaderConfig(**{"held_out": 0.5, **changes})
    mixture = MixtureConfig(name="bridge", robot_share=1.0, web={})
    return RunConfig(data_dir=str(root), mixture=mixture, loader=loader)


@pytest.fixture
def bridge(tmp_path):
    drawn = generate.draw("bridge_orig", lengths=(5, 4, 6, 3))
    generate.write(drawn, tmp_path / "bridge_orig" / "0.1.0", "bridge_orig")
    return tmp_path


def descriptors():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors as Linux does")
def test_both_parts_of_a_robot_dataset_map_its_files_once(bridge):
    """Each mapped file is a descriptor, of which a process has 1024; a mixture has 27 robots."""
    before = descriptors()
    with_one = sources.open_data(robot_config(bridge, held_out=0.0), lambda *_: None)
    one = descriptors() - before
    assert one > 5
    with_both = sources.open_data(robot_config(bridge), lambda *_: None)
    assert descriptors() - before - one <= one + 1  # the frames of the other part
    assert not with_one.robots_held_out
    assert len(with_both.robots_held_out["bridge_orig"]) > 0


def test_without_a_held_out_share_every_episode_is_trained_on(bridge):
    data = sources.open_data(robot_config(bridge, held_out=0.0), lambda *_: None)
    assert data.robots["bridge_orig"].episodes == 4
    assert data.held_out == {}


def test_a_dataset_without_metadata_of_its_splits_is_found(bridge):
    (bridge / "bridge_orig" / "0.1.0" / "dataset_info.json").unlink()
    data = sources.open_data(robot_config(bridge), lambda *_: None)
    assert data.robots["bridge_orig"].episodes == 2


def test_progress_is_told_in_megabytes(bridge):
    told = []
    sources.open_data(robot_config(bridge), lambda *report: told.append(report))
    assert {report[0] for report in told} == {"index bridge_orig:train, MB"}
    assert told[-1][1:] == (1, 1)


@pytest.mark.parametrize("split", ["train[4:]", "train[:0%]"])
def test_a_split_without_an_episode_names_its_dataset(bridge, split):
    robots = {"bridge_orig": RobotConfig(split=split)}
    mixture = MixtureConfig(name=None, robots=robots, robot_share=1.0, web={})
    config = RunConfig(data_dir=str(bridge), mixture=mixture)
    with pytest.raises(UserError, match=r"dataset bridge_orig, split 'train.*of the 4 episodes"):
        sources.open_data(config, lambda *_: None)


@pytest.mark.parametrize("kind", ["robots", "web"])
def test_a_named_directory_is_looked_for_where_data_are_opened(bridge, kind):
    entries = {"robots": {"tabletop": RobotConfig(dir="no/such/place")}, "web": {}}
    if kind == "web":
        entries = {
            "robots": {"bridge_orig": RobotConfig()},
            "web": {"tabletop": WebConfig(dir="no/such/place")},
        }
    share = 1.0 if kind == "robots" else 0.5
    mixture = MixtureConfig(name=None, robot_share=share, **entries)
    loader = LoaderConfig(held_out=0.5)
    config = RunConfig(data_dir=str(bridge), mixture=mixture, loader=loader)  # acting needs no more
    where = rf"config\.mixture\.{kind}\.tabletop\.dir: no/such/place: expected a dataset dir"
    with pytest.raises(UserError, match=where):
        sources.open_data(config, lambda *_: None)
    left_out: list[str] = []
    data = sources.open_data(config, lambda *_: None, left_out)
    assert [line.partition(":")[0] for line in left_out] == [f"config.mixture.{kind}.tabletop.dir"]
    assert list(data.robots) == (["bridge_orig"] if kind == "web" else [])


def asked_config(root):
    web = {"asked": WebConfig(format="webdataset")}
    mixture = MixtureConfig(robot_share=0.0, name=None, web=web)
    return RunConfig(data_dir=str(root), mixture=mixture)


def test_questions_in_tar_files_are_found_in_the_data_directory(tmp_path):
    (tmp_path / "asked").mkdir()
    for split, count in (("train", 4), ("validation", 2)):
        (tmp_path / "asked" / f"{split}.tar").write_bytes(tar(count))
    data = sources.open_data(asked_config(tmp_path), lambda *_: None)
    assert (len(data.web["asked"]), len(data.web_held_out["asked"])) == (4, 2)


def test_questions_that_are_not_there_are_told_where_they_were_looked_for(tmp_path):
    with pytest.raises(UserError, match=r"'asked': not found: expected the folder \S+/asked, with"):
        sources.open_data(asked_config(tmp_path), lambda *_: None)

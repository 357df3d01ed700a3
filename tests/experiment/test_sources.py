"""Which datasets of a run are read in blocks: those of the training part that lie on a server."""

import io
import json
import tarfile

import cv2
import fsspec
import numpy as np
import pytest

from vla_jax.data.blocks import BlocksConfig
from vla_jax.data.loader import LoaderConfig
from vla_jax.data.mixture import MixtureConfig
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

"""Names that come out of files stay below the dataset's folder; nothing else is read."""

import json

import numpy as np
import pytest
import source_files
from source_files import h5py

from vla_jax.core.errors import UserError
from vla_jax.data.ingest import encoding, formats
from vla_jax.data.ingest.episode import Checks
from vla_jax.data.ingest.lerobot import LeRobot
from vla_jax.data.ingest.libero import Libero
from vla_jax.data.ingest.options import Options
from vla_jax.data.ingest.robomimic import Robomimic


def read_all(reader, source):
    found, checks = reader(source, Options()), Checks()
    return [checks(found.episode(i)) for i in range(len(found))]


def refused(reader, source):
    with pytest.raises(UserError) as error:
        read_all(reader, source)
    assert "\n" not in str(error.value)
    return str(error.value)


TEMPLATES = {
    "../other/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet": "the name of a file below",
    "/etc/passwd": "the name of a file below",
    "data/{chunk_index.__class__.__init__.__globals__}": "expected {places} such as",
    "data/{file_index!r}": "expected {places} such as",
    "data/{file_index:0999999999d}": "expected {places} such as",
    "data/{other}": "expected {places} such as",
    "data/{": "field data_path",
    "data/{}": "expected {places} such as",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_paths_of_tables(tmp_path, template):
    root = source_files.lerobot(tmp_path / "x", filmed=False, info={"data_path": template})
    message = refused(LeRobot, root)
    assert "meta/info.json, field data_path" in message
    assert TEMPLATES[template] in message


@pytest.mark.parametrize("name", ["../../evil", "/evil", "a/../../b", ""])
def test_names_of_features(tmp_path, name):
    root = source_files.lerobot(tmp_path / "x", filmed=False)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][name] = {"dtype": "float32", "shape": [1]}
    (root / "meta/info.json").write_text(json.dumps(info))
    assert "meta/info.json: the name of a feature" in refused(LeRobot, root)


@pytest.mark.parametrize("name", ["../secret.png", "/tmp/secret.png", "images/../../secret.png"])
def test_images_beside_the_table(tmp_path, name):
    (tmp_path / "secret.png").write_bytes(source_files.png(source_files.picture(0)))

    def lead_out(episode, columns):
        for cell in columns["observation.images.top"]:
            cell.update(bytes=None, path=name)

    root = source_files.lerobot(tmp_path / "x", filmed=False, columns=lead_out)
    assert "step 0: its path: expected the name of a file below" in refused(LeRobot, root)


def test_links_of_hdf5(tmp_path):
    secret = source_files.libero(tmp_path / "secret.hdf5", episodes=1)

    def link(file):
        del file["data/demo_1/obs/ee_pos"]
        file["data/demo_1/obs/ee_pos"] = h5py.ExternalLink(secret, "data/demo_0/obs/ee_pos")

    path = source_files.libero(tmp_path / "a.hdf5", change=link)
    assert "obs/ee_pos: a link to another file: expected data in this file" in refused(Libero, path)


def test_values_of_hdf5_in_other_files(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(4096))

    def outside(file):
        del file["data/demo_0/actions"]
        where = [(str(tmp_path / "secret"), 0, 5 * 7 * 8)]
        file["data/demo_0"].create_dataset("actions", (5, 7), "f8", external=where)

    path = source_files.libero(tmp_path / "a.hdf5", change=outside)
    assert "actions: its values lie in other files" in refused(Libero, path)


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", "", "X", "x" * 300, "x\n"])
def test_the_name_of_the_dataset(tmp_path, name):
    reader = Robomimic(
        source_files.robomimic(tmp_path / "a.hdf5", lang="go"), Options(instruction="go")
    )
    with pytest.raises(UserError, match="name of the dataset: expected up to 100 lower-case"):
        formats.ingest(reader, tmp_path / "out/1.0.0", name=name, description="")
    assert not (tmp_path / "out").exists()


def _regroup(file):
    del file["data/demo_0/actions"]
    file.create_group("data/demo_0/actions")


def _replace(name, value):
    def change(file):
        del file[name]
        file[name] = value

    return change


def _group(file):
    file["data/demo_0/obs/nested/x"] = np.zeros(3)


DEMOS = {
    "a group for a dataset": (_group, None),
    "a group for actions": (_regroup, "actions: expected a dataset, found a group"),
    "a dataset for obs": (_replace("data/demo_0/obs", np.zeros(3)), "obs: expected a group"),
    "a dataset for a demo": (_replace("data/demo_0", np.zeros(3)), "demo_0: expected a group"),
    "one value": (_replace("data/demo_0/actions", 3.0), "expected one row per step, found one"),
    "nothing": (_replace("data/demo_0/actions", h5py.Empty("f8")), "per step, found nothing"),
    "texts": (_replace("data/demo_0/actions", [b"a"] * 4), "actions: expected numbers"),
    "odd dones": (_replace("data/demo_0/dones", [0, 0, 0, 5]), "dones: expected 0 or 1"),
    "short states": (_replace("data/demo_0/rewards", np.zeros(3)), "expected 4 steps, as actions"),
    "count": (
        lambda file: file["data/demo_0"].attrs.__setitem__("num_samples", 9),
        "attribute num_samples and actions differ in length: expected 4 steps, as actions, found 9",
    ),
    "instruction": (
        lambda file: file["data/demo_0"].attrs.__setitem__("ep_meta", "[1]"),
        "attribute ep_meta: expected object, got array",
    ),
    "instruction that is a number": (
        lambda file: file["data/demo_0"].attrs.__setitem__("ep_meta", 7),
        "attribute ep_meta: expected text, found int",
    ),
    "huge pictures": (
        lambda file: (
            file.__delitem__("data/demo_0/obs/agentview_image"),
            file["data/demo_0/obs"].create_dataset(
                "agentview_image", (4, 20000, 20000, 3), "u1", chunks=(1, 100, 100, 3)
            ),
        ),
        "obs/agentview_image: 20000x20000 pixels, expected 1 to 67,108,864",
    ),
}


@pytest.mark.parametrize("kind", DEMOS)
def test_hdf5_of_another_shape_is_one_line(tmp_path, kind):
    change, message = DEMOS[kind]
    path = source_files.robomimic(tmp_path / "a.hdf5", lang="go", change=change)
    if message is None:
        reader = Robomimic(path, Options())
        assert "nested" in reader.notes[1]
        assert len(reader.episode(0)) == 4
    else:
        assert message in refused(Robomimic, path)


def test_demonstrations_that_are_not_counted_are_told(tmp_path):
    def drop(file):
        file["data"].attrs["num_demos"] = 3
        file.move("data/demo_1", "data/eemo_1")

    reader = Robomimic(source_files.robomimic(tmp_path / "a.hdf5", change=drop), Options())
    notes = " ".join(reader.notes)
    assert "left out, not called demo_N: eemo_1" in notes
    assert "says num_demos=3 and has 2" in notes


def bomb(data, side=20_000):
    """A PNG whose header says that it is huge."""
    return data[:16] + side.to_bytes(4, "big") * 2 + data[24:]


def test_image_bombs_are_refused_by_their_header(tmp_path):
    data = bomb(source_files.png(source_files.picture(0)))
    with pytest.raises(UserError, match="a place: 20000x20000 pixels, expected 1 to"):
        encoding.intact(data, "a place")


def test_images_of_another_size_than_the_features_say(tmp_path):
    root = source_files.lerobot(tmp_path / "x", filmed=False)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["observation.images.top"]["shape"] = [64, 32, 3]
    (root / "meta/info.json").write_text(json.dumps(info))
    message = refused(LeRobot, root)
    assert "observation/top: expected 64x32, as the metadata say, found PNG 32x32" in message


def test_a_png_with_a_flipped_bit_is_refused(tmp_path):
    data = bytearray(source_files.png(source_files.picture(0)))
    data[len(data) // 2] ^= 8
    with pytest.raises(UserError, match="image a place: damaged"):
        encoding.intact(bytes(data), "a place")


def test_one_damaged_file_among_many_can_be_left_out(tmp_path):
    (tmp_path / "in").mkdir()
    for k in range(4):
        source_files.libero(tmp_path / f"in/task_{k}_demo.hdf5", episodes=1)
    path = tmp_path / "in/task_3_demo.hdf5"
    path.write_bytes(path.read_bytes()[:-5000])
    reader = Libero(tmp_path / "in", Options())
    assert len(reader) == 4
    target, told = tmp_path / "out/1.0.0", "task_3_demo.hdf5: HDF5 cannot read it"
    with pytest.raises(UserError, match=rf"{told} .*To leave it out: --on_corrupt=skip"):
        formats.ingest(reader, target, name="x", description="Some.")
    done = formats.ingest(reader, target, name="x", description="Some.", on_corrupt="skip")
    assert done.episodes == 3
    assert len(done.skipped) == 1
    info = json.loads((done.directory / "dataset_info.json").read_text())
    assert "Some. Left out, 1: " in info["description"]
    assert told in info["description"]

import time

import numpy as np
import pytest

from vla_jax.data import fresh_folder, sealed
from vla_jax.data.sealed import DamagedError, Sealed


@pytest.fixture
def folder(tmp_path):
    with fresh_folder.replacing(tmp_path / "kept") as fresh:
        (fresh / "a").mkdir()
        np.save(fresh / "a" / "b.npy", np.arange(1000))
        np.save(fresh / "c.npy", np.arange(3.0))
        sealed.seal(fresh, {"x": [1, 2.5, None], "ü": float("nan")})
    return tmp_path / "kept"


def test_what_was_sealed_is_read(folder):
    opened = Sealed.open(folder)
    assert opened.values["x"] == [1, 2.5, None]
    assert opened.load("a/b.npy").tolist() == list(range(1000))
    assert opened.load("c.npy") is opened.load("c.npy")
    assert Sealed.open(folder / "absent") is None


def directory(path):
    path.unlink()
    path.mkdir()


DAMAGE = {
    "absent": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "another": lambda path: path.write_bytes(path.read_bytes()[::-1]),
    "directory": directory,
    "link to itself": lambda path: (path.unlink(), path.symlink_to(path)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("part", ["index.json", "a/b.npy", "c.npy"])
def test_damage_is_told_with_the_file(folder, part, damage):
    damage(folder / part)
    with pytest.raises(DamagedError, match=f"{folder / part}"):
        Sealed.open(folder)


@pytest.mark.parametrize(
    "text", ["[]", "3", "null", '{"crc32c": "1"}', '{"crc32c": 1, "crc32c": 1}']
)
def test_a_manifest_of_another_shape_is_damaged(folder, text):
    (folder / "index.json").write_text(text)
    with pytest.raises(DamagedError, match=r"index\.json"):
        Sealed.open(folder)


def test_a_manifest_whose_values_were_changed_is_damaged(folder):
    path = folder / "index.json"
    path.write_text(path.read_text().replace("2.5", "2.25"))
    with pytest.raises(DamagedError, match=r"index\.json: damaged: expected checksum"):
        Sealed.open(folder)


def test_what_is_left_is_compared_in_the_background(folder):
    data = bytearray((folder / "a" / "b.npy").read_bytes())
    data[-8] ^= 1
    (folder / "a" / "b.npy").write_bytes(data)
    opened = Sealed.open(folder, seconds=-1.0)
    end = time.monotonic() + 20
    while opened._damage is None and time.monotonic() < end:
        time.sleep(0.01)
    with pytest.raises(DamagedError, match=rf"b\.npy: damaged.*Delete {folder} and run"):
        opened.load("c.npy")


def test_a_folder_from_before_checksums_is_none(folder):
    (folder / "index.json").write_text('{"format": 1}')
    assert Sealed.open(folder) is None

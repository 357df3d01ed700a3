import os
import pathlib

import pytest

from vla_jax.core import files


def test_a_file_is_written_into_a_new_folder_and_replaced(tmp_path):
    path = tmp_path / "new" / "file.json"
    for data in (b"one", b"two"):
        files.write_whole(path, data)
        assert path.read_bytes() == data
    assert os.listdir(path.parent) == ["file.json"]


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    files.write_whole(path, b"old")

    def full(self, data):
        with self.open("wb") as file:
            file.write(data[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_whole(path, b"new")
    assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == ["file.json"]
    assert path.read_bytes() == b"old"


def test_a_file_below_a_file_is_refused(tmp_path):
    files.write_whole(tmp_path / "file", b"")
    with pytest.raises(NotADirectoryError):
        files.write_whole(tmp_path / "file" / "a" / "b", b"")

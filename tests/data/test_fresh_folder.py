import errno
import os
import subprocess
import sys

import pytest

from vla_jax.data import fresh_folder, sealed
from vla_jax.data.sealed import Sealed


def test_a_file_in_the_place_of_a_folder_is_replaced(tmp_path):
    (tmp_path / "kept").write_text("a file")
    assert Sealed.open(tmp_path / "kept") is None
    with fresh_folder.replacing(tmp_path / "kept") as fresh:
        sealed.seal(fresh, {"x": 1})
    assert Sealed.open(tmp_path / "kept").values == {"x": 1}


def test_a_damaged_folder_is_replaced_although_its_manifest_is_that_of_the_new_one(tmp_path):
    folder = tmp_path / "kept"
    for _ in range(2):
        with fresh_folder.replacing(folder) as fresh:
            (fresh / "x").write_bytes(b"whole")
            sealed.seal(fresh, {"x": 1})
        assert (folder / "x").read_bytes() == b"whole"
        (folder / "x").write_bytes(b"")


def test_many_at_once_end_with_a_sound_folder(tmp_path):
    """Processes that put different folders in one place; each has a number of its own."""
    program = (
        "import pathlib, sys; from vla_jax.data import fresh_folder, sealed\n"
        "for k in range(40):\n"
        "  with fresh_folder.replacing(pathlib.Path(sys.argv[1])) as fresh:\n"
        "    (fresh / 'x').write_bytes(bytes(1000) + sys.argv[2].encode())\n"
        "    sealed.seal(fresh, {'who': sys.argv[2], 'k': k})\n"
    )
    folder = tmp_path / "kept"
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(folder), who]) for who in ("a", "b")
    ]
    seen = 0
    while any(process.poll() is None for process in started):
        seen += Sealed.open(folder) is not None  # never damaged
    assert [process.wait() for process in started] == [0, 0]
    assert seen
    assert Sealed.open(folder).values["k"] == 39
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.EIO])
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, monkeypatch, number):
    def mkdir(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "mkdir", mkdir)
    with (
        pytest.raises(fresh_folder.UnwritableError, match=os.strerror(number)),
        fresh_folder.replacing(tmp_path / "kept"),
    ):
        pass

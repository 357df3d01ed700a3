"""A frame index, bit by bit: damaged, read-only, killed while it was made."""

import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
from small_rlds import values, write

from vla_jax.core.errors import UserError
from vla_jax.data import beside, fresh_folder, indexing
from vla_jax.data.frame_index import FrameIndex


@pytest.fixture
def toy(tensorflow, tmp_path):
    episodes = [values(n) for n in (3, 1, 2, 4)]
    return write(tensorflow, tmp_path / "d" / "1.0.0", episodes, shards=2)


@pytest.fixture
def read_only(monkeypatch):
    """Makes a folder one in which no other can be made."""
    real = os.mkdir

    def protect(folder):
        def mkdir(path, *arguments, **options):
            if str(path).startswith(str(folder)):
                raise PermissionError(13, "Permission denied")
            return real(path, *arguments, **options)

        monkeypatch.setattr(os, "mkdir", mkdir)

    return protect


def read_all(index):
    frames = range(len(index))
    return (
        index.fingerprint,
        index.array("steps/x").tolist(),
        [index.text("steps/language", i) for i in frames],
        [index.image_bytes("steps/image", i) for i in frames],
        {name: stat.to_json() for name, stat in index.statistics.items()},
        index.t.tolist(),
    )


def test_any_flipped_bit_of_an_index_is_noticed_and_mended(toy):
    """Nothing is read that is other than it was; the seed chooses 60 bits of all files."""
    index = indexing.ensure(toy)
    expected, choose = read_all(index), random.Random(0)
    paths = sorted(path for path in index.folder.rglob("*") if path.is_file())
    for _ in range(60):
        path = choose.choice(paths)
        data = bytearray(path.read_bytes())
        data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
        path.write_bytes(data)
        assert read_all(indexing.ensure(toy)) == expected


def test_any_flipped_bit_of_a_dataset_is_refused_or_harmless(toy):
    """60 bits of the shards and the metadata, each before there is an index."""
    expected, choose = read_all(indexing.ensure(toy)), random.Random(1)
    paths = sorted(path for path in toy.iterdir() if path.is_file())
    refused = 0
    for _ in range(60):
        shutil.rmtree(toy / ".vla_index", ignore_errors=True)
        path = choose.choice(paths)
        whole = path.read_bytes()
        data = bytearray(whole)
        data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
        path.write_bytes(data)
        try:
            found = read_all(indexing.ensure(toy))
        except UserError:
            refused += 1
        else:
            assert found == expected or path.suffix == ".json"
        path.write_bytes(whole)
    assert refused > 30


def test_a_damaged_index_is_made_again_with_a_note(toy, capsys):
    folder = indexing.ensure(toy).folder
    (folder / "texts" / "steps" / "language.ends.npy").unlink()
    assert len(indexing.ensure(toy)) == 10
    assert "language.ends.npy: damaged: expected a file, found No such file" in (
        capsys.readouterr().out
    )
    (folder / "index.json").unlink()
    assert len(indexing.ensure(toy)) == 10
    assert "index.json: damaged" in capsys.readouterr().out
    assert len(FrameIndex.open(toy)) == 10


def test_a_damaged_index_that_is_read_only_is_made_again_in_the_cache(toy, tmp_path, read_only):
    folder = indexing.ensure(toy).folder
    (folder / "t.npy").write_bytes(b"")
    read_only(toy)
    with pytest.raises(
        UserError, match=r"cannot be written \(Permission denied\)\. Pass --cache-d"
    ):
        indexing.ensure(toy)
    cached = indexing.ensure(toy, cache_dir=tmp_path / "cache")
    assert cached.folder.is_relative_to(tmp_path / "cache")
    assert cached.t.tolist() == [0, 1, 2, 0, 1, 0, 0, 1, 2, 3]


# Kills itself at the n-th thing that is done to the file system, whatever that is.
KILLED = """
import itertools, os, pathlib, signal, sys
from vla_jax.data import indexing
from vla_jax.data.indexing import Wanted

directory = pathlib.Path(sys.argv[1])
few, all = Wanted(images=(), texts=()), Wanted()
for number in itertools.count(1, 3):
    indexing.build(directory, wanted=few)
    child = os.fork()
    if not child:
        counted = itertools.count(1)

        def hook(event, arguments):
            if event in {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir"}:
                if next(counted) == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        indexing.ensure(directory, wanted=all)
        os._exit(0)
    if not os.waitpid(child, 0)[1]:
        break
    index = indexing.ensure(directory, wanted=all)
    assert index.image_bytes("steps/image", 9) == b"picture 3 of 4"
    assert index.array("steps/x").shape == (10, 2)
    assert index.text("steps/language", 9) == "task of 4"
    assert os.listdir(index.folder.parent) == ["train"]
print("kills", number // 3)
"""


def test_killed_at_any_moment_the_same_command_makes_a_sound_index(toy):
    command = [sys.executable, "-c", KILLED, str(toy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 30
    assert "damaged" not in done.stdout


def test_two_indexers_at_once_end_with_a_sound_index(toy):
    program = (
        "import sys; from vla_jax.data import indexing; print(len(indexing.ensure(sys.argv[1])))"
    )
    command = [sys.executable, "-c", program, str(toy)]
    pair = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0] for process in pair] == ["10\n", "10\n"]
    assert read_all(FrameIndex.open(toy)) == read_all(indexing.build(toy))
    assert [path.name for path in (toy / ".vla_index").iterdir()] == ["train"]


class Adapter:
    """Writes what is kept beside an index."""

    def __init__(self, index):
        self.index, self.calls = index, 0

    def __call__(self, folder):
        self.calls += 1
        np.save(folder / "a.npy", np.asarray(self.index.array("steps/x")) * 2)
        return {"b": [1.5]}


def test_what_is_kept_beside_a_read_only_index_goes_to_the_cache(toy, tmp_path, read_only):
    """Somebody has indexed beside the data; others may only read there."""
    indexing.ensure(toy)
    read_only(toy)
    index = indexing.ensure(toy)
    with pytest.raises(
        fresh_folder.UnwritableError, match=r"Pass --cache-dir=DIR \(in training: --conf"
    ):
        beside.keep(index, "standard-x", Adapter(index))
    index = indexing.ensure(toy, cache_dir=tmp_path / "cache")
    assert index.folder == toy / ".vla_index" / "train"
    write = Adapter(index)
    for _ in range(2):
        index = indexing.ensure(toy, cache_dir=tmp_path / "cache")
        kept = beside.keep(index, "standard-x", write)
        assert kept.folder.is_relative_to(tmp_path / "cache")
        assert kept.values == {"b": [1.5]}
        assert kept.load("a.npy").tolist() == (np.asarray(index.array("steps/x")) * 2).tolist()
    assert write.calls == 1
    (kept.folder / "a.npy").write_bytes(b"")
    assert beside.keep(index, "standard-x", write) is kept  # mapped once
    beside.keep(indexing.ensure(toy, cache_dir=tmp_path / "cache"), "standard-x", write)
    assert write.calls == 2


def test_the_advice_does_not_name_the_flag_that_was_given(toy, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(
        fresh_folder.UnwritableError, match=r"\(Not a directory\)\. Name another --cache-d"
    ):
        indexing.ensure(toy, cache_dir=tmp_path / "cache")

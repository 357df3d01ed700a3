import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import zlib
from typing import Any

import fsspec
import numpy as np
import pytest
import small_rlds
from small_rlds import STANDARD, feature, values, write

from vla_jax.core.errors import UserError
from vla_jax.data import episode_walk, frame_index, index_files, indexing, schema, shard_marks
from vla_jax.data.frame_index import FrameIndex
from vla_jax.data.indexing import Wanted

LENGTHS = (3, 1, 2, 4)


@pytest.fixture
def toy(tensorflow, tmp_path):
    """Four episodes in two shards."""
    episodes = [values(n) for n in LENGTHS]
    return write(tensorflow, tmp_path / "d" / "1.0.0", episodes, shards=2)


def shard(directory, k=0):
    return sorted(directory.glob("*.tfrecord-*"))[k]


def everything(folder):
    """Every file below a folder and its bytes."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


# What is indexed.


def test_by_default_all_that_is_small_is_indexed_and_no_depth(tensorflow, tmp_path):
    flat = {
        **STANDARD,
        "steps/depth": feature("image", (4, 4, 1)),
        "steps/large": feature("float32", (65,)),
        "steps/ragged": feature("float32", (-1,)),
        "steps/most": feature("float32", (8, 8)),
        "steps/flag": feature("bool"),
        "number": feature("int64"),
    }
    flat["steps/depth16"] = feature("image", (4, 4, 3))
    flat["steps/depth16"]["image"]["dtype"] = "uint16"
    more = {
        "steps/depth": (bytes, [b"d", b"d"]),
        "steps/depth16": (bytes, [b"d", b"d"]),
        "steps/large": (float, [0.0] * 130),
        "steps/ragged": (float, [1.0]),
        "steps/most": (float, [0.0] * 128),
        "steps/flag": (int, [1, 0]),
        "number": (int, [2**40]),
    }
    index = indexing.ensure(write(tensorflow, tmp_path / "d", [values(2, **more)], flat=flat))
    assert index.cameras == ("steps/image",)
    assert {(column.role, column.name) for column in index.columns} == {
        ("image", "steps/image"),
        *(("array", name) for name in ("steps/x", "steps/most", "steps/flag", "number")),
        ("text", "steps/language"),
    }
    assert index.array("number").dtype == np.int64
    assert index.array("number").tolist() == [2**40] * 2
    assert index.array("steps/flag").dtype == np.bool_
    assert index.array("steps/flag").tolist() == [True, False]
    assert index.array("steps/most").shape == (2, 8, 8)


def test_only_what_is_wanted_is_indexed(toy):
    index = indexing.ensure(toy, wanted=Wanted(images=(), arrays=("steps/x",), texts=()))
    assert index.cameras == ()
    with pytest.raises(UserError, match="no text 'steps/language' in its index"):
        index.text("steps/language", 0)


def test_a_feature_that_is_lacking_is_added_to_those_that_are_there(toy):
    indexing.ensure(toy, wanted=Wanted(images=(), arrays=("steps/x",), texts=()))
    both = indexing.ensure(toy, wanted=Wanted(images=("steps/image",), arrays=(), texts=()))
    assert both.has("steps/x", "array")
    assert both.has("steps/image", "image")
    calls = []
    indexing.ensure(
        toy,
        wanted=Wanted(images=(), arrays=("steps/x",), texts=()),
        on_progress=lambda *a: calls.append(a),
    )
    assert calls == []  # nothing was made


def test_a_feature_may_be_both_a_text_and_an_array(tensorflow, tmp_path):
    flat = {"steps/codes": feature("int32", (8,))}
    codes = [*"häm".encode(), 0, 0, 0, 0, *b"abcdefgh"]
    directory = write(tensorflow, tmp_path, [{"steps/codes": (int, codes)}], flat=flat)
    wanted = Wanted(texts=("steps/codes",))
    index = indexing.ensure(directory, wanted=wanted)
    assert [index.text("steps/codes", i) for i in range(2)] == ["häm", "abcdefgh"]
    assert index.array("steps/codes")[1].tolist() == list(b"abcdefgh")


def test_compressed_numbers_are_read(tensorflow, tmp_path):
    flat = {}
    for name, encoding in (("steps/zlib", "zlib"), ("steps/bytes", "bytes")):
        flat[name] = feature("float32", (2,))
        flat[name]["tensor"]["encoding"] = encoding
    rows = np.array([[1.5, -2], [3, 4], [5, 6]], np.float32)
    episode = {
        "steps/zlib": (bytes, [zlib.compress(row.tobytes()) for row in rows]),
        "steps/bytes": (bytes, [row.tobytes() for row in rows]),
    }
    index = indexing.ensure(write(tensorflow, tmp_path / "good", [episode], flat=flat))
    np.testing.assert_array_equal(index.array("steps/zlib"), rows)
    np.testing.assert_array_equal(index.array("steps/bytes"), rows)
    episode["steps/zlib"][1][1] = b"no"
    with pytest.raises(UserError, match="episode 0 of the shard: Error -"):
        indexing.ensure(write(tensorflow, tmp_path / "bad", [episode], flat=flat))


def test_an_unknown_feature_is_told_the_nearest(toy):
    with pytest.raises(UserError, match=r"no feature 'steps/xx': expected one of .*'steps/x'"):
        indexing.ensure(toy, wanted=Wanted(arrays=("steps/xx",)))
    assert not (toy / ".vla_index").exists()


@pytest.mark.parametrize(
    "wanted",
    [Wanted(images=("steps/x",)), Wanted(arrays=("steps/image",)), Wanted(texts=("steps/x",))],
)
def test_a_feature_of_another_kind_is_refused(toy, wanted):
    with pytest.raises(
        UserError, match=r"cannot be read as (image|array|text): expected a feature"
    ):
        indexing.ensure(toy, wanted=wanted)


def test_at_least_one_feature_of_the_steps_is_needed(toy):
    with pytest.raises(UserError, match="nothing to index"):
        indexing.ensure(toy, wanted=Wanted(images=(), arrays=(), texts=()))


# Where it lies.


def test_the_index_lies_beside_the_data_or_in_the_cache(toy, tmp_path):
    cached = indexing.ensure(toy, cache_dir=tmp_path / "cache")
    assert cached.folder.relative_to(tmp_path / "cache").parts[0] == "d"
    assert cached.folder.parent.name.startswith("1.0.0-")
    assert not (toy / ".vla_index").exists()
    with pytest.raises(UserError, match=rf"not indexed\. Run: vla-jax index {toy}\."):
        FrameIndex.open(toy)
    assert len(FrameIndex.open(toy, cache_dir=tmp_path / "cache")) == 10
    beside = indexing.ensure(toy)
    assert beside.folder == toy / ".vla_index" / "train"
    assert everything(beside.folder) == everything(cached.folder)


def test_one_cache_serves_datasets_of_the_same_name(tensorflow, tmp_path):
    first = write(tensorflow, tmp_path / "a" / "1.0.0", [values(1)])
    second = write(tensorflow, tmp_path / "b" / "1.0.0", [values(2)])
    assert [len(indexing.ensure(d, cache_dir=tmp_path / "cache")) for d in (first, second)] == [
        1,
        2,
    ]
    assert len(FrameIndex.open(first, cache_dir=tmp_path / "cache")) == 1


def test_an_index_beside_the_data_is_found_although_there_is_a_cache(toy, tmp_path):
    made = indexing.ensure(toy)
    assert indexing.ensure(toy, cache_dir=tmp_path / "cache").folder == made.folder
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "reason", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system")]
)
def test_data_that_are_read_only_ask_for_a_cache_directory(toy, tmp_path, monkeypatch, reason):
    real = os.mkdir

    def mkdir(path, *arguments, **options):
        if str(path).startswith(str(toy)):
            raise reason
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(UserError, match=r"cannot be written \(.*\)\. Pass --cache-dir=DIR"):
        indexing.ensure(toy)
    assert len(indexing.ensure(toy, cache_dir=tmp_path / "cache")) == 10


def test_a_cache_directory_below_a_file_is_refused(toy, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for below in ("file", "file/cache"):
        with pytest.raises(UserError, match=r"cannot be written \(.*\)\. Name another --cache-dir"):
            indexing.ensure(toy, cache_dir=tmp_path / below)
    assert (tmp_path / "file").read_text() == "not a folder"


# Written whole or not at all.


@pytest.mark.parametrize(
    "full", [OSError(28, "No space left on device"), OSError("64 requested and 0 written")]
)
def test_a_full_disk_is_told_and_leaves_nothing(toy, monkeypatch, full):
    def append(*_):
        raise full

    before = everything(toy)
    monkeypatch.setattr(index_files.ArrayFile, "append", append)
    with pytest.raises(UserError, match=r"train: cannot be written \(.*\)\. Make room there"):
        indexing.ensure(toy)
    assert everything(toy) == before


class StopError(Exception):
    pass


def test_an_interrupt_leaves_nothing(toy):
    before = everything(toy)

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        indexing.ensure(toy, on_progress=stop)
    assert everything(toy) == before
    assert not (toy / ".vla_index").exists()


def test_an_interrupt_leaves_the_index_that_there_was(toy):
    index = indexing.ensure(toy, wanted=Wanted(images=("steps/image",), arrays=(), texts=()))
    before = everything(toy)

    def stop(what, done, total):
        if done > total // 2:
            raise StopError

    with pytest.raises(StopError):
        indexing.ensure(toy, on_progress=stop)
    assert everything(toy) == before
    assert index.image_bytes("steps/image", 1) == b"picture 1 of 3"


def test_what_a_killed_process_left_is_removed(toy):
    """A process is killed in the middle, for good; the next one cleans up and makes the index."""
    program = (
        "import os, signal, sys\n"
        "from vla_jax.data import indexing\n"
        "indexing.ensure(sys.argv[1], on_progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(toy)], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = (toy / ".vla_index").iterdir()
    assert left.name.startswith(".train.")
    with pytest.raises(UserError, match="not indexed"):
        FrameIndex.open(toy)
    assert len(indexing.ensure(toy)) == 10
    assert [path.name for path in (toy / ".vla_index").iterdir()] == ["train"]


def test_what_others_are_writing_is_left_alone(toy):
    mine = toy / ".vla_index" / f".train.{socket.gethostname()}.{os.getppid()}"
    theirs = toy / ".vla_index" / ".train.another-machine.1"
    for folder in (mine, theirs):
        folder.mkdir(parents=True)
    indexing.ensure(toy)
    assert mine.exists()
    assert theirs.exists()


def overtaken(toy, look, wanted="Wanted()"):
    """Returns an `on_progress` in which another process makes an index first, and what it then saw.

    `look` is called once with the folder of that index.
    """
    program = (
        "import sys; from vla_jax.data.indexing import Wanted, ensure;"
        f"ensure(sys.argv[1], wanted={wanted})"
    )
    seen: list[Any] = []

    def on_progress(*_):
        if not seen:
            subprocess.run([sys.executable, "-c", program, str(toy)], check=True)
            seen.append(look(toy / ".vla_index" / "train"))

    return on_progress, seen


def test_an_index_that_another_process_made_meanwhile_is_kept(toy):
    on_progress, seen = overtaken(toy, lambda folder: (folder / "index.json").stat().st_ino)
    index = indexing.build(toy, on_progress=on_progress)
    assert [(index.folder / "index.json").stat().st_ino] == seen
    assert [path.name for path in index.folder.parent.iterdir()] == ["train"]


def test_an_index_with_more_features_that_another_process_made_meanwhile_is_kept(toy):
    on_progress, seen = overtaken(toy, everything)
    index = indexing.ensure(toy, wanted=Wanted(images=(), texts=()), on_progress=on_progress)
    assert [everything(index.folder)] == seen
    assert {column.role for column in index.columns} == {"image", "array", "text"}
    assert [path.name for path in index.folder.parent.iterdir()] == ["train"]


def test_an_index_with_other_features_that_was_made_meanwhile_is_made_part_of(toy):
    on_progress, _ = overtaken(toy, everything, wanted="Wanted(images=(), arrays=())")
    index = indexing.ensure(toy, wanted=Wanted(images=(), texts=()), on_progress=on_progress)
    assert {column.role for column in index.columns} == {"array", "text"}


def test_an_open_index_goes_on_when_it_is_replaced(toy):
    index = indexing.ensure(toy, wanted=Wanted(arrays=(), texts=()))
    indexing.ensure(toy)
    assert index.image_bytes("steps/image", 9) == b"picture 3 of 4"


def test_the_same_index_made_twice_is_kept(toy):
    folder = indexing.ensure(toy).folder
    number = (folder / "index.json").stat().st_ino
    indexing.build(toy)
    assert (folder / "index.json").stat().st_ino == number
    indexing.build(toy, wanted=Wanted(texts=()))
    assert (folder / "index.json").stat().st_ino != number


def test_an_index_of_an_older_format_is_made_again(toy, monkeypatch):
    indexing.ensure(toy)
    monkeypatch.setattr(frame_index, "FORMAT", frame_index.FORMAT + 1)
    with pytest.raises(UserError, match="not indexed"):
        FrameIndex.open(toy)
    assert len(indexing.ensure(toy)) == 10


def test_an_index_that_is_not_whole_is_made_again(toy):
    path = indexing.ensure(toy).folder / "index.json"
    path.write_text(path.read_text()[:100])
    assert len(indexing.ensure(toy)) == 10


# Shards that have changed.


def rewritten(path, change):
    """Changes the bytes of a file, and surely its time of change."""
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(bytes(data))
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))


def head(data):
    data[20] ^= 1


def tail(data):
    data[-1] ^= 1


def length(data):
    data.extend(b"more")


@pytest.mark.parametrize("change", [head, tail, length])
def test_a_changed_shard_is_refused_with_the_command_that_repairs(toy, change):
    indexing.ensure(toy)
    rewritten(shard(toy, 1), change)
    message = rf"{shard(toy, 1).name}: changed since.*Index it again: vla-jax index {toy}\."
    for attempt in (FrameIndex.open, indexing.ensure):
        with pytest.raises(shard_marks.ChangedShardError, match=message):
            attempt(toy)


def test_a_new_time_of_change_alone_is_no_change(toy):
    indexing.ensure(toy)
    rewritten(shard(toy), lambda data: None)
    assert len(FrameIndex.open(toy)) == 10


def test_a_copied_dataset_takes_its_index_along(toy, tmp_path):
    fingerprint = indexing.ensure(toy).fingerprint
    shutil.copytree(toy, tmp_path / "copy", copy_function=shutil.copyfile)
    copy = FrameIndex.open(tmp_path / "copy")
    assert copy.fingerprint == fingerprint
    assert copy.image_bytes("steps/image", 0) == b"picture 0 of 3"


def test_a_shard_that_is_new_or_gone_is_refused(tensorflow, tmp_path):
    directory = write(tensorflow, tmp_path / "d", [values(1), values(2)], shards=2, info=False)
    for path in directory.glob("*-of-00002"):
        path.rename(str(path).removesuffix("-of-00002"))
    indexing.ensure(directory)
    third = tmp_path / "d" / "d-train.tfrecord-00002"
    tensorflow.write(third, [])
    with pytest.raises(UserError, match=r"00002: changed since.*found a new shard"):
        FrameIndex.open(directory)
    third.unlink()
    (tmp_path / "d" / "d-train.tfrecord-00001").unlink()
    with pytest.raises(UserError, match=r"00001: changed since.*found no such file"):
        FrameIndex.open(directory)


@pytest.fixture
def joints():
    """Features with a Sequence of three numbers in the steps, and an episode of two steps."""
    flat = {**STANDARD, "steps/joints": {"sequence": {"feature": feature("float32"), "length": 3}}}
    flat_values, lengths = "steps/joints/ragged_flat_values", "steps/joints/ragged_row_lengths_0"
    numbers = np.arange(6.0).tolist()
    return flat, values(2, **{flat_values: (float, numbers), lengths: (int, [3, 3])})


def test_a_sequence_of_fixed_length_in_the_steps_is_read(tensorflow, tmp_path, joints):
    flat, episode = joints
    index = indexing.ensure(write(tensorflow, tmp_path / "d", [episode], flat=flat))
    np.testing.assert_array_equal(index.array("steps/joints"), [[0, 1, 2], [3, 4, 5]])


def test_a_sequence_of_another_length_is_named(tensorflow, tmp_path, joints):
    flat, episode = joints
    episode["steps/joints/ragged_row_lengths_0"] = (int, [2, 4])
    directory = write(tensorflow, tmp_path / "d", [episode], flat=flat)
    refuses(directory, "'steps/joints', list 0: expected 3 values, found 2")


def test_the_repaired_index_is_of_the_new_data(toy, tensorflow):
    old = indexing.ensure(toy).fingerprint
    write(tensorflow, toy, [values(5)] * 2, shards=2, split="train")
    index = indexing.build(toy)
    assert len(index) == len(FrameIndex.open(toy)) == 10
    assert index.distinct_texts("steps/language") == ["task of 5"]
    assert index.fingerprint != old


def test_the_fingerprint_is_of_the_data_only(toy, tensorflow, tmp_path):
    first = indexing.ensure(toy).fingerprint
    assert indexing.build(toy, wanted=Wanted(texts=())).fingerprint == first
    again = write(tensorflow, tmp_path / "again", [values(n) for n in LENGTHS], shards=2)
    assert indexing.ensure(again).fingerprint == first
    # One number in the middle of a shard.
    others = [values(n) for n in LENGTHS]
    others[2]["steps/x"][1][1] += 1
    other = write(tensorflow, tmp_path / "other", others, shards=2)
    assert indexing.ensure(other).fingerprint != first


# Damaged data.


def refuses(directory, message, **options):
    with pytest.raises(UserError, match=message):
        indexing.ensure(directory, **options)
    assert not (directory / ".vla_index").exists()


def bad(tensorflow, tmp_path, **others):
    """A dataset whose third episode, the second of the first shard, is wrong."""
    episodes = [values(2), values(1), values(3, **others), values(1)]
    return write(tensorflow, tmp_path / "d", episodes, shards=2)


PLACE = r"dataset .*/d, shard d-train\.tfrecord-00000-of-00002, episode 1 of the shard"


def test_a_truncated_shard_is_named(toy):
    path = shard(toy, 1)
    path.write_bytes(path.read_bytes()[:-7])
    refuses(
        toy,
        rf"dataset {toy}, shard {path.name}, episode 1 of the shard \(byte \d+\): expected a whole",
    )


def test_a_shard_with_fewer_episodes_than_the_metadata_say_is_named(toy):
    path = shard(toy, 1)
    path.write_bytes(b"")
    refuses(toy, rf"shard {path.name}: expected 2 episodes, as dataset_info.json says, found 0")


def test_a_shard_of_other_records_is_named(tensorflow, tmp_path):
    directory = write(tensorflow, tmp_path / "d", [values(1)])
    tensorflow.write(shard(directory), [b"something else"])
    refuses(directory, "episode 0 of the shard: byte 12: expected tag 0xa")


def test_a_flipped_bit_is_found(toy):
    path = shard(toy, 1)
    place = path.read_bytes().index(b"picture 2 of 4")
    rewritten(path, lambda data: data.__setitem__(place, 0))
    refuses(toy, rf"shard {path.name}, episode 1 of the shard: the payload is corrupted.*Or leave")


def flipped(path, place, mask=1):
    data = bytearray(path.read_bytes())
    data[place] ^= mask
    path.write_bytes(data)


def test_a_damaged_record_is_left_out_and_named_on_request(toy, capsys):
    sound = indexing.ensure(toy)
    texts = [sound.text("steps/language", i) for i in range(len(sound))]
    shutil.rmtree(toy / ".vla_index")
    path = shard(toy, 0)
    flipped(path, path.read_bytes().index(b"picture 1 of 3"))
    index = indexing.ensure(toy, on_corrupt="skip")
    (left,) = index.left_out
    assert (left.shard, left.first, left.count) == (path.name, 0, 1)
    assert f"left out: dataset {toy}, shard {path.name}, episode 0" in capsys.readouterr().out
    assert [index.text("steps/language", i) for i in range(len(index))] == texts[3:]
    assert [index.image_bytes("steps/image", i) for i in range(2)] == [
        b"picture %d of 2" % t for t in range(2)
    ]
    assert index.fingerprint != sound.fingerprint
    assert indexing.ensure(toy, on_corrupt="skip").left_out == (left,)
    with pytest.raises(UserError, match=r"left out what is damaged: found .*episode 0.* --verify"):
        indexing.ensure(toy)


@pytest.mark.parametrize("place", [0, 9])
def test_behind_a_damaged_length_nothing_of_the_shard_is_found(toy, place):
    path = shard(toy, 1)
    flipped(path, place)
    refuses(toy, rf"shard {path.name}, episode 0 of the shard .*the length is corrupted")
    index = indexing.ensure(toy, on_corrupt="skip")
    assert [(left.shard, left.first, left.count) for left in index.left_out] == [(path.name, 0, 2)]
    assert index.episodes == 2


def test_a_shard_cut_between_two_records_is_noticed(toy):
    path = shard(toy, 1)
    first = indexing.ensure(toy).records[2].tolist()
    shutil.rmtree(toy / ".vla_index")
    path.write_bytes(path.read_bytes()[: first[1] + first[2] + 4])
    refuses(toy, rf"shard {path.name}: expected 2 episodes, as dataset_info.json says, found 1")
    index = indexing.ensure(toy, on_corrupt="skip")
    assert [(left.first, left.count) for left in index.left_out] == [(1, 1)]


def test_what_cannot_be_read_for_other_reasons_is_not_left_out(toy):
    shard(toy, 1).unlink()
    shard_of_nothing = toy / "d-train.tfrecord-00001-of-00002"
    shard_of_nothing.mkdir()
    with pytest.raises(UserError, match="Is a directory"):
        indexing.ensure(toy, on_corrupt="skip")


def test_an_image_that_has_changed_since_is_named(toy):
    index = indexing.ensure(toy)
    path = shard(toy, 1)
    flipped(path, path.read_bytes().index(b"picture 2 of 4"))
    with pytest.raises(UserError, match=r"episode 3 step 2: steps/image has changed since .*--ver"):
        index.image_bytes("steps/image", 8)
    assert index.image_bytes("steps/image", 7) == b"picture 1 of 4"


def test_an_image_of_the_whole_episode_is_checked_too(tensorflow, tmp_path):
    flat = {**STANDARD, "map": feature("image", (4, 4, 3))}
    episodes = [values(n, map=(bytes, [b"map %d" % n])) for n in (2, 3)]
    index = indexing.ensure(write(tensorflow, tmp_path / "d", episodes, flat=flat))
    expected = [b"map 2"] * 2 + [b"map 3"] * 3
    assert [index.image_bytes("map", i) for i in range(5)] == expected


def test_an_empty_episode_is_named(tensorflow, tmp_path):
    nothing = {name: (kind, []) for name, (kind, _) in values(1).items()}
    refuses(bad(tensorflow, tmp_path, **nothing), f"{PLACE}: the episode is empty")


def test_a_language_that_is_not_utf8_is_named_with_its_step(tensorflow, tmp_path):
    language = (bytes, [b"good", b"\xff\xfe bad", b"good"])
    message = rf"{PLACE}, feature 'steps/language', step 1: expected UTF-8, found the byte 0xff"
    refuses(bad(tensorflow, tmp_path, **{"steps/language": language}), message)


def test_a_missing_feature_is_named_with_those_there_are(tensorflow, tmp_path):
    episode = values(2)
    del episode["steps/x"]
    directory = write(tensorflow, tmp_path / "d", [values(1), values(1), episode], shards=2)
    refuses(directory, rf"{PLACE}: no feature 'steps/x': expected one of steps/image, steps/lang")


@pytest.mark.parametrize(
    ("name", "found", "message"),
    [
        (
            "steps/x",
            (float, [1.0] * 5),
            r"'steps/x': expected 6 values \(3 of shape \(2,\)\), found 5",
        ),
        ("steps/x", (int, [1] * 6), "'steps/x': expected floats, found integers"),
        ("steps/language", (bytes, [b"a"] * 2), r"'steps/language': expected 3 values .* found 2"),
        ("steps/image", (bytes, [b"a"] * 4), r"'steps/x': expected 8 values .* found 6"),
        ("steps/image", (float, [1.0] * 3), "'steps/image': expected bytes, found floats"),
    ],
)
def test_a_feature_of_a_wrong_shape_or_kind_is_named(tensorflow, tmp_path, name, found, message):
    refuses(bad(tensorflow, tmp_path, **{name: found}), f"{PLACE}: (feature )?.*{message}")


def test_a_dataset_without_records_is_named(tensorflow, tmp_path):
    refuses(write(tensorflow, tmp_path / "d", []), "no records: expected at least one episode")


def test_a_wrong_split_is_told_the_nearest(toy):
    with pytest.raises(UserError, match=r"no split 'trian': expected one of train.*'train'"):
        indexing.ensure(toy, "trian")
    with pytest.raises(UserError, match=r"no split 'trian'"):
        FrameIndex.open(toy, "trian")


def test_a_folder_that_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"TFDS version directory with features\.json"):
        indexing.ensure(tmp_path)


# Progress, splits, remote storage.


def test_progress_counts_the_bytes_of_the_shards(toy):
    calls = []
    indexing.ensure(toy, on_progress=lambda *call: calls.append(call))
    total = sum(path.stat().st_size for path in toy.glob("*.tfrecord-*"))
    assert {(what, size) for what, _, size in calls} == {("index d:train", total)}
    assert [done for _, done, _ in calls] == sorted({done for _, done, _ in calls})
    assert calls[-1][1] == total


def test_splits_have_an_index_each(toy, tensorflow):
    write(tensorflow, toy, [values(7)], split="val")
    assert len(indexing.ensure(toy, "val")) == 7
    with pytest.raises(UserError, match=r"Run: vla-jax index .*1\.0\.0\."):
        FrameIndex.open(toy)
    assert len(indexing.ensure(toy)) == 10
    assert len(FrameIndex.open(toy, "val")) == 7


@pytest.fixture
def remote(toy):
    memory = fsspec.filesystem("memory")
    memory.put(str(toy), "/bucket/d/1.0.0", recursive=True)
    yield "memory://bucket/d/1.0.0"
    memory.rm("/bucket", recursive=True)


def test_remote_data_are_indexed_into_the_cache(remote, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(episode_walk, "_SHARDS_AT_ONCE", 1)
    index = indexing.ensure(remote, cache_dir=tmp_path / "cache")
    local = indexing.ensure(toy)
    assert index.fingerprint == local.fingerprint
    for i in range(len(local)):
        assert index.image_bytes("steps/image", i) == local.image_bytes("steps/image", i)
        assert index.text("steps/language", i) == local.text("steps/language", i)
    np.testing.assert_array_equal(index.array("steps/x"), local.array("steps/x"))
    assert len(FrameIndex.open(f"{remote}/", cache_dir=tmp_path / "cache")) == 10


def test_remote_data_without_a_cache_ask_for_one(remote):
    with pytest.raises(UserError, match=r"cannot lie on remote storage.*Pass --cache-dir=DIR"):
        indexing.ensure(remote)


def test_a_changed_remote_shard_is_refused(remote, toy, tmp_path):
    indexing.ensure(remote, cache_dir=tmp_path / "cache")
    path = f"{remote}/{shard(toy).name}"
    with fsspec.open(path, "ab") as file:
        file.write(b"more")
    message = r"changed since.*vla-jax index memory://bucket/d/1.0.0 --cache-dir=.*cache\."
    with pytest.raises(UserError, match=message):
        FrameIndex.open(remote, cache_dir=tmp_path / "cache")


def test_a_damaged_remote_shard_is_named(remote, toy, tmp_path):
    path = f"{remote}/{shard(toy, 1).name}"
    with fsspec.open(path, "wb") as file:
        file.write(shard(toy, 1).read_bytes()[:-7])
    with pytest.raises(UserError, match=rf"shard {shard(toy, 1).name}, episode 1 of the shard"):
        indexing.ensure(remote, cache_dir=tmp_path / "cache")


# The files.


def test_what_is_the_same_in_all_frames_takes_no_room(tensorflow, tmp_path):
    flat = {
        "steps/a": feature("float32", (60,)),
        "steps/b": feature("text"),
        "steps/c": feature("int32"),
    }
    episode = {
        "steps/a": (float, [0.5] * 60 * 1000),
        "steps/b": (bytes, [b"the same"] * 1000),
        "steps/c": (int, [7] * 999 + [8]),
    }
    index = indexing.ensure(write(tensorflow, tmp_path, [episode], flat=flat))
    assert index.array("steps/a").shape == (1000, 60)
    assert (index.array("steps/a") == 0.5).all()
    assert index.text_ids("steps/b").tolist() == [0] * 1000
    assert index.array("steps/c").tolist() == [7] * 999 + [8]
    assert (index.folder / "arrays" / "steps" / "a.npy").stat().st_size < 500
    assert (index.folder / "texts" / "steps" / "b.ids.npy").stat().st_size < 500


def test_an_array_file_grows_and_is_read_by_numpy(tmp_path):
    rows = np.random.default_rng(0).normal(size=(1000, 3, 2)).astype(np.float32)
    file = index_files.ArrayFile(tmp_path / "a" / "b.npy", np.float32, (3, 2))
    for part in np.split(rows, [1, 1, 400, 999]):
        file.append(part)
    file.finish()
    np.testing.assert_array_equal(np.load(tmp_path / "a" / "b.npy"), rows)


def test_the_manifest_names_no_path_of_this_machine(toy):
    text = (indexing.ensure(toy).folder / "index.json").read_text()
    assert str(toy) not in text
    assert json.loads(text)["shards"][0]["name"] == shard(toy).name


def test_the_defaults_are_those_that_small_names(toy):
    features = schema.read_schema(toy)
    assert indexing.small(features, "image") == ("steps/image",)
    assert indexing.small(features, "array") == ("steps/x",)
    assert indexing.small(features, "text") == ("steps/language",)
    assert small_rlds.STANDARD.keys() == features.keys()

"""The loop over any format: checks against the first episode, skipping, and all or nothing."""

import dataclasses
import errno
import importlib

import numpy as np
import pytest
import source_files

from vla_jax.core import packages
from vla_jax.core.errors import UserError
from vla_jax.data import records
from vla_jax.data.ingest import formats, preview
from vla_jax.data.ingest.encoding import Encoder
from vla_jax.data.ingest.episode import Episode
from vla_jax.data.ingest.options import Options


def make(e, steps=3):
    """Episode `e` of a dataset that is whole."""
    images = [Encoder()(source_files.picture(t)) for t in range(steps)]
    return Episode(
        place=f"file episode {e}",
        file_path="file",
        images={"observation/image": images},
        arrays={"action": np.full((steps, 2), e, np.float32), "count": np.arange(steps)},
        instructions=["go"] * steps,
    )


class Made:
    """A Reader of made-up episodes, some of them damaged."""

    notes, docs = (), {}

    def __init__(self, count, **damaged):
        self._count = count
        self._damaged = {int(name[1:]): change for name, change in damaged.items()}
        self.read = 0

    def __len__(self):
        return self._count

    def episode(self, i):
        self.read += 1
        return self._damaged.get(i, lambda episode: episode)(make(i))


def changed(**fields):
    return lambda episode: dataclasses.replace(
        episode, **{name: change(getattr(episode, name)) for name, change in fields.items()}
    )


def refuse(episode):
    raise UserError(f"{episode.place}: damaged")


def ingest(reader, path, **options):
    return formats.ingest(reader, path / "x/1.0.0", name="x", description="X.", **options)


DAMAGE = {
    "nan": (
        changed(arrays=lambda a: a | {"action": np.array([[0, 0], [0, np.nan], [0, 0]], "f4")}),
        "file episode 2 step 1: action dimension [1]: expected a finite number, found nan",
    ),
    "shape": (
        changed(arrays=lambda a: a | {"action": np.zeros((3, 5), np.float32)}),
        "file episode 2: action is not as in the first episode: expected float32 [2], "
        "found float32 [5]",
    ),
    "dtype": (
        changed(arrays=lambda a: a | {"count": np.zeros(3, np.float32)}),
        "count is not as in the first episode: expected int64 [], found float32 []",
    ),
    "missing feature": (
        changed(arrays=lambda a: {"action": a["action"]}),
        "count is not as in the first episode: expected int64 [], found no such feature",
    ),
    "further feature": (
        changed(arrays=lambda a: a | {"more": np.zeros(3)}),
        "more is not as in the first episode: expected no such feature, found float64 []",
    ),
    "length": (
        changed(arrays=lambda a: a | {"count": np.arange(4)}),
        "file episode 2: count and action differ in length: expected 3 steps, as action, found 4",
    ),
    "missing frame": (
        changed(images=lambda i: {name: frames[:2] for name, frames in i.items()}),
        "observation/image and action differ in length: expected 3 steps, as action, found 2",
    ),
    "missing camera": (
        changed(images=lambda i: {}),
        "observation/image is not as in the first episode: expected JPEG 32x32, "
        "found no such feature",
    ),
    "no image": (
        changed(images=lambda i: {name: [*frames[:2], b"GIF89a"] for name, frames in i.items()}),
        "file episode 2 step 2: image observation/image: neither JPEG nor PNG, begins with "
        "b'GIF89a'",
    ),
    "image size": (
        changed(
            images=lambda i: {
                name: [*frames[:2], Encoder()(np.zeros((8, 16, 3), np.uint8))]
                for name, frames in i.items()
            }
        ),
        "file episode 2 step 2: image observation/image: expected JPEG 32x32, as at step 0, "
        "found JPEG 8x16",
    ),
    "empty": (
        changed(
            images=lambda i: {name: [] for name in i},
            arrays=lambda a: {name: values[:0] for name, values in a.items()},
            instructions=lambda texts: [],
        ),
        "file episode 2: no steps",
    ),
    "no words": (
        changed(instructions=lambda texts: ["go", " ", "go"]),
        "file episode 2 step 1: no instruction",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_episode_unlike_the_first_is_named_and_nothing_is_written(tmp_path, damage):
    change, message = DAMAGE[damage]
    with pytest.raises(UserError) as error:
        ingest(Made(4, e2=change), tmp_path)
    assert message in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_episode_can_be_left_out_and_is_listed(tmp_path):
    heard = []
    done = ingest(Made(4, e2=refuse), tmp_path, on_corrupt="skip", on_progress=heard.append)
    assert (done.episodes, done.steps, done.instructions) == (3, 9, 1)
    assert done.skipped == ["file episode 2: damaged."]
    assert [episode and episode.place[-1] for episode in heard] == ["0", "1", None, "3"]
    info = records.import_tfds().builder_from_directory(done.directory).info
    assert info.splits["train"].shard_lengths == [3]


def test_a_damaged_first_episode_does_not_set_the_schema(tmp_path):
    done = ingest(Made(3, e0=DAMAGE["empty"][0]), tmp_path, on_corrupt="skip")
    assert done.episodes == 2


def test_leaving_out_is_bounded(tmp_path):
    reader = Made(40, e3=refuse, e4=refuse, e5=refuse)
    with pytest.raises(UserError, match=r"episode 5: damaged: expected at most 2 .*, found 3"):
        ingest(reader, tmp_path, on_corrupt="skip", max_skipped=2)
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_that_is_there_is_left_alone(tmp_path):
    ingest(Made(2), tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "x/1.0.0").iterdir()}
    reader = Made(3)
    with pytest.raises(UserError, match=r"is already there\. Choose another name"):
        ingest(reader, tmp_path)
    assert reader.read == 0
    assert {path: path.read_bytes() for path in (tmp_path / "x/1.0.0").iterdir()} == before


def test_no_episodes_are_refused(tmp_path):
    with pytest.raises(UserError, match="x: no episodes"):
        ingest(Made(0), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing_behind(tmp_path):
    def interrupt(episode):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(Made(2), tmp_path, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch):
    def full(batch):
        yield b""
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(records, "frame", full)
    with pytest.raises(UserError, match=r"cannot write dataset .*bytes free\. Free space"):
        ingest(Made(2), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_same_source_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        ingest(Made(3), tmp_path / name)
    a, b = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "x/1.0.0").iterdir()}
        for name in ("a", "b")
    )
    assert a == b


def test_a_preview_reads_three_episodes_and_says_what_they_hold(tmp_path):
    reader = Made(40)
    found = preview.preview(reader)
    assert reader.read == 3
    assert (found.total, found.steps, found.instructions) == (40, [3, 3, 3], ["go"])
    assert ("action", "float32 [2]", "0 0", "2 2") in found.rows()
    assert ("observation/image", "JPEG 32x32", "", "") in found.rows()
    written = ingest(reader, tmp_path)
    assert found.size == pytest.approx(written.size, rel=0.25)


def test_a_preview_finds_damage_in_the_first_three_only():
    with pytest.raises(UserError, match="file episode 2: damaged"):
        preview.preview(Made(5, e2=refuse))
    preview.preview(Made(5, e3=refuse))


def said(call):
    """What a call returns, or the message with which it is refused."""
    try:
        return call()
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("damaged", [(), (0,), (1, 2), (0, 2, 3), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("most", [0, 2, 100])
@pytest.mark.parametrize("on_corrupt", ["error", "skip"])
def test_a_preview_passes_over_what_an_ingest_leaves_out(tmp_path, damaged, most, on_corrupt):
    allowed = {"on_corrupt": on_corrupt, "max_skipped": most}
    reader = Made(5, **{f"e{i}": refuse for i in damaged})
    written = said(lambda: ingest(reader, tmp_path, **allowed))
    found = said(lambda: preview.preview(reader, 5, **allowed))
    if isinstance(written, str):
        assert found == written
    else:
        assert found.skipped == written.skipped == [f"file episode {i}: damaged." for i in damaged]
        assert (len(found.episodes), found.read) == (written.episodes, 5)


def test_a_preview_ends_with_the_third_sound_episode():
    reader = Made(9, e0=refuse, e2=refuse, e6=refuse)
    found = preview.preview(reader, on_corrupt="skip")
    assert (found.read, reader.read, found.total) == (5, 5, 9)
    assert found.skipped == ["file episode 0: damaged.", "file episode 2: damaged."]


def test_a_preview_of_nothing_is_refused():
    with pytest.raises(UserError, match="no episodes"):
        preview.preview(Made(0))


@pytest.mark.parametrize(
    ("name", "package"),
    [("libero_hdf5", "h5py"), ("robomimic_hdf5", "h5py"), ("lerobot", "pyarrow")],
)
def test_a_missing_package_is_one_clear_error(tmp_path, monkeypatch, name, package):
    real = importlib.import_module

    def without(module):
        if module.partition(".")[0] == package:
            raise ImportError(f"No module named {module!r}")
        return real(module)

    monkeypatch.setattr(packages.importlib, "import_module", without)
    with pytest.raises(
        UserError, match=rf"--format={name} needs the package {package}.*\[ingest\]"
    ):
        formats.FORMATS[name](tmp_path, Options())

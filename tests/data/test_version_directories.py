import fsspec
import pytest
import small_rlds

from vla_jax.core.errors import UserError
from vla_jax.data import schema, version_directories


def test_the_title_is_that_of_the_metadata_or_of_the_path(tmp_path):
    directory = tmp_path / "bridge" / "0.1.0"
    directory.mkdir(parents=True)
    assert version_directories.title(directory) == ("bridge", "0.1.0")
    assert version_directories.title(f"{directory}/") == ("bridge", "0.1.0")
    text = '{"name": "d", "version": "1.0.0", "splits": []}'
    (directory / "dataset_info.json").write_text(text)
    assert version_directories.title(directory) == ("d", "1.0.0")


def test_datasets_are_found_below_a_parent(tmp_path, tensorflow):
    places = ("a/1.0.0", "b/config/2.0.0", "b/other/2.0.0")
    for place in places:
        small_rlds.write(tensorflow, tmp_path / place, [small_rlds.values(1)])
        (tmp_path / place / ".vla_index" / "train").mkdir(parents=True)
    (tmp_path / "notes.txt").touch()
    expected = [str(tmp_path / place) for place in places]
    assert version_directories.find(tmp_path) == expected
    assert version_directories.find(tmp_path / "a" / "1.0.0") == expected[:1]
    assert version_directories.find(tmp_path / "b") == expected[1:]


def test_datasets_are_found_on_remote_storage_too(tmp_path, tensorflow):
    small_rlds.write(tensorflow, tmp_path / "1.0.0", [small_rlds.values(1)])
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "1.0.0"), "/find/d/1.0.0", recursive=True)
    assert version_directories.find("memory://find") == ["memory://find/d/1.0.0"]
    assert schema.read_split("memory://find/d/1.0.0", "train").shard_lengths == (1,)
    assert version_directories.title("memory://find/d/1.0.0/") == ("d", "1.0.0")


def test_a_directory_without_datasets_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"expected a TFDS version directory.*found none"):
        version_directories.find(tmp_path)
    with pytest.raises(UserError, match="No such file"):
        version_directories.find(tmp_path / "absent")

"""robomimic's files: every observation that is RGB or a vector, and nothing silently lost."""

import numpy as np
import pytest
import source_files

from vla_jax.core.errors import UserError
from vla_jax.data import images, indexing
from vla_jax.data.ingest import formats
from vla_jax.data.ingest.encoding import Encoder
from vla_jax.data.ingest.options import Options
from vla_jax.data.ingest.robomimic import Robomimic

LOSSLESS = Options(encoder=Encoder(lossless=True))


def test_observations_keep_their_names_and_the_frame_index_reads_them(tmp_path):
    path = source_files.robomimic(tmp_path / "lift.hdf5", lang="lift the cube")
    reader = Robomimic(path, LOSSLESS)
    formats.ingest(reader, tmp_path / "lift/1.0.0", name="lift", description="Lift.")
    index = indexing.ensure(tmp_path / "lift/1.0.0")
    assert index.cameras == ("steps/observation/agentview_image",)
    assert np.diff(index.starts).tolist() == [4, 5, 6]
    assert index.text("steps/language_instruction", 0) == "lift the cube"
    pixels = images.decode(index.image_bytes(index.cameras[0], 4 + 2), "x")
    np.testing.assert_array_equal(pixels, source_files.pictures(1, 5)[2])
    state = np.concatenate([source_files.numbers(1, 5, n) for n in (3, 4, 2)], axis=1)
    found = index.array("steps/observation/state")[4:9]
    np.testing.assert_array_equal(found, state.astype(np.float32))
    np.testing.assert_array_equal(
        found[:, :3], index.array("steps/observation/robot0_eef_pos")[4:9]
    )


def test_what_cannot_be_used_is_said(tmp_path):
    reader = Robomimic(source_files.robomimic(tmp_path / "lift.hdf5"), Options())
    assert reader.notes == [
        "Images are kept as they are stored.",
        "Left out, neither RGB nor a vector: agentview_depth.",
    ]


def test_absolute_actions_are_kept_beside_the_others(tmp_path):
    def add(file):
        file["data/demo_0/actions_abs"] = np.ones((4, 10))

    path = source_files.robomimic(tmp_path / "lift.hdf5", change=add)
    assert Robomimic(path, Options()).episode(0).arrays["action_absolute"].shape == (4, 10)


def test_an_unfinished_episode_is_not_terminal(tmp_path):
    def end(file):
        file["data/demo_1/dones"][-1] = 1

    path = source_files.robomimic(tmp_path / "lift.hdf5", change=end)
    reader = Robomimic(path, Options())
    assert [reader.episode(i).terminal for i in range(3)] == [False, True, False]


def test_the_instruction_is_that_of_the_file_or_the_one_given_or_an_error(tmp_path):
    path = source_files.robomimic(tmp_path / "lift.hdf5")
    given = Robomimic(path, Options(instruction="lift it"))
    assert set(given.episode(0).instructions) == {"lift it"}
    with pytest.raises(UserError, match=r"demo_0 step 0: no instruction.*--instruction="):
        formats.ingest(Robomimic(path, Options()), tmp_path / "x/1", name="x", description="")
    assert not (tmp_path / "x").exists()

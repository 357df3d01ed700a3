"""LeRobot v3: episodes found in shared tables and videos, every contradiction named."""

import json

import numpy as np
import pytest
import source_files
from source_files import FPS, TASKS, pq

from vla_jax.core.errors import UserError
from vla_jax.data import images, indexing, records
from vla_jax.data.ingest import formats
from vla_jax.data.ingest.encoding import Encoder
from vla_jax.data.ingest.episode import Checks
from vla_jax.data.ingest.lerobot import LeRobot
from vla_jax.data.ingest.options import Options

LOSSLESS = Options(encoder=Encoder(lossless=True))


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    return source_files.lerobot(tmp_path_factory.mktemp("lerobot") / "filmed")


def read_all(root, options=LOSSLESS):
    reader, checks = LeRobot(root, options), Checks()
    return [checks(reader.episode(i)) for i in range(len(reader))]


def test_every_frame_of_the_shared_video_lands_at_its_step(filmed):
    for e, episode in enumerate(read_all(filmed)):
        assert len(episode) == 5 + e
        for t, data in enumerate(episode.images["observation/top"]):
            found = images.decode(data, "x").astype(int)
            # The blue of a picture says which it is; its neighbours differ by 28.
            assert np.abs(found - source_files.picture(10 * e + t)).max() <= 12


def test_the_frame_index_reads_what_tfds_describes(filmed, tmp_path):
    reader = LeRobot(filmed, Options())
    formats.ingest(reader, tmp_path / "so/1.0.0", name="so", description="S.")
    builder = records.import_tfds().builder_from_directory(tmp_path / "so/1.0.0")
    assert builder.info.features["steps"]["action"].doc.desc == "j0, j1, j2, j3, j4, j5"
    index = indexing.ensure(tmp_path / "so/1.0.0")
    assert np.diff(index.starts).tolist() == [5, 6, 7, 8]
    assert [index.text("steps/language_instruction", int(i)) for i in index.starts[:-1]] == [
        *TASKS,
        *TASKS,
    ]
    for e, name in ((1, "steps/action"), (3, "steps/action")):
        found = index.array(name)[index.starts[e] : index.starts[e + 1]]
        expected = np.tanh(source_files.numbers(e, 5 + e, 6)).astype(np.float32)
        np.testing.assert_array_equal(found, expected)
    assert index.array("steps/reward")[4] == 1.0
    terminal = index.array("steps/is_terminal").reshape(-1)
    assert terminal[index.starts[1:] - 1].tolist() == [1, 0, 1, 0]  # `next.done` of the last step


def test_images_in_the_table_keep_their_bytes(tmp_path):
    root = source_files.lerobot(tmp_path / "stored", filmed=False)
    for e, episode in enumerate(read_all(root, Options())):
        expected = [source_files.png(image) for image in source_files.pictures(e, 5 + e)]
        assert episode.images["observation/top"] == expected


def test_images_beside_the_table_are_found(tmp_path):
    def move(episode, columns):
        for t, cell in enumerate(columns["observation.images.top"]):
            name = f"images/{episode}-{t}.png"
            (tmp_path / "stored" / "images").mkdir(exist_ok=True)
            (tmp_path / "stored" / name).write_bytes(cell["bytes"])
            cell.update(bytes=None, path=name)

    root = source_files.lerobot(tmp_path / "stored", filmed=False, columns=move)
    first = read_all(root, Options())[0].images["observation/top"][2]
    assert first == source_files.png(source_files.pictures(0, 3)[2])
    (root / "images/2-3.png").unlink()
    with pytest.raises(UserError, match=r"top of .* episode 2 step 3 is missing"):
        read_all(root, Options())


def test_notes_say_the_rate_and_what_is_left_out(filmed):
    notes = " ".join(LeRobot(filmed, Options()).notes)
    assert f"so101 at {FPS} steps per second" in notes
    assert "Left out, neither RGB nor numbers: note." in notes


def refused(root, i=1):
    with pytest.raises(UserError) as error:
        read_all(root)
    return str(error.value)


def test_a_video_that_lacks_frames_names_episode_and_step(tmp_path):
    root = source_files.lerobot(tmp_path / "x", images=lambda frames: frames[:-3])
    message = refused(root)
    assert "episode 3" in message
    assert "step 5: no frame at 2.300 s: expected one within 0.0001 s" in message
    assert "found 23 frames for 26 steps" in message


def test_a_truncated_video_is_named(tmp_path):
    root = source_files.lerobot(tmp_path / "x")
    path = next(root.glob("videos/*/*/*.mp4"))
    path.write_bytes(path.read_bytes()[:500])
    assert f"{path} cannot be decoded" in refused(root)
    path.unlink()
    assert f"{path}: no such film. Fetch the whole dataset." in refused(root)


def test_a_damaged_or_missing_table_is_named(tmp_path):
    root = source_files.lerobot(tmp_path / "x")
    path = root / "data/chunk-000/file-001.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{path}: pyarrow cannot read it" in refused(root)
    path.unlink()
    assert f"{path}: no such file. Fetch the whole dataset." in refused(root)


def test_rows_of_another_episode_are_refused(tmp_path):
    def swap(episode, columns):
        if episode == 1:
            columns["episode_index"][0] = 0

    message = refused(source_files.lerobot(tmp_path / "x", columns=swap))
    assert "rows 5 to 10: expected steps of episode 1, found steps of episodes [0, 1]" in message


def test_a_table_shorter_than_the_episodes_say_is_refused(tmp_path):
    root = source_files.lerobot(tmp_path / "x")
    path = root / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 9), path)
    assert "file-000.parquet is too short: expected 11 rows" in refused(root)


def test_an_empty_cell_names_the_step(tmp_path):
    def empty(episode, columns):
        if episode == 1:
            columns["action"][3] = None

    message = refused(source_files.lerobot(tmp_path / "x", columns=empty))
    assert "episode 1 step 3: action is empty" in message


def test_a_number_missing_inside_a_vector_names_the_step(tmp_path):
    def empty(episode, columns):
        if episode == 2:
            columns["action"][4][5] = None

    message = refused(source_files.lerobot(tmp_path / "x", columns=empty))
    assert "episode 2 step 4: action dimension [5]: expected a finite number, found nan" in message


def test_a_task_without_words_is_refused(tmp_path):
    def renumber(episode, columns):
        columns["task_index"] = [7] * len(columns["task_index"])

    message = refused(source_files.lerobot(tmp_path / "x", columns=renumber))
    assert "step 0: task 7 is not in the table of tasks of meta: expected one of [0, 1]" in message


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"codebase_version": "v1.6"}, "field codebase_version: expected v2.x or v3.x, found v1.6"),
        ({"codebase_version": "v4.0"}, "field codebase_version: expected v2.x or v3.x, found v4.0"),
        ({"codebase_version": 3}, "field codebase_version: expected str, got int"),
        ({"features": {}}, "no feature is called action or actions: found no features"),
        (
            {"features": {"action": {"dtype": "float33", "shape": [6]}}},
            "feature action, dtype: expected one of numpy's, such as float32, found 'float33'",
        ),
        ({"fps": "10"}, "field fps: expected float, got str"),
        ({"fps": 0}, "field fps: expected float > 0"),
        ({"fps": float("inf")}, "field fps: expected a finite number, found inf"),
        ({"total_episodes": 5}, "total_episodes of info.json and the episodes differ: expected 5"),
        ({"total_frames": 27}, "expected 27, found 26"),
        ({"chunks_size": 0}, "field chunks_size: expected int >= 1"),
    ],
)
def test_another_version_or_damaged_metadata_are_refused(tmp_path, info, message):
    root = source_files.lerobot(tmp_path / "x", info=info)
    assert message in refused(root)


def test_features_that_would_share_a_name_are_refused(tmp_path):
    root = source_files.lerobot(tmp_path / "x")
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["observation.top"] = {"dtype": "float32", "shape": [2]}
    (root / "meta/info.json").write_text(json.dumps(info))
    assert "would both be called observation/top" in refused(root)


def test_depth_maps_are_left_out(tmp_path):
    root = source_files.lerobot(tmp_path / "x")
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["observation.images.top"]["info"] = {"is_depth_map": True}
    (root / "meta/info.json").write_text(json.dumps(info))
    episode = read_all(root)[0]
    assert episode.images == {}


def test_a_folder_that_is_no_dataset_is_refused(tmp_path):
    assert "the folder of a LeRobot dataset of format v2 or v3" in refused(tmp_path)


def test_large_row_groups_are_read_in_the_parts_that_an_episode_needs(tmp_path):
    root = source_files.lerobot(tmp_path / "x")
    whole = [episode.arrays["action"] for episode in read_all(root)]
    for path in root.glob("data/*/*.parquet"):
        pq.write_table(pq.read_table(path), path, row_group_size=4)
    for before, after in zip(whole, read_all(root), strict=True):
        np.testing.assert_array_equal(before, after.arrays["action"])

"""LeRobot: what the metadata say is held against what is there, and every difference is named."""

import contextlib
import json
import re

import numpy as np
import pytest
import source_files
from source_files import FPS, pa, pq

from vla_jax.core.errors import UserError
from vla_jax.data import images
from vla_jax.data.ingest.encoding import Encoder
from vla_jax.data.ingest.episode import Checks
from vla_jax.data.ingest.lerobot import LeRobot
from vla_jax.data.ingest.options import Options

CAMERA = "observation.images.top"
LOSSLESS = Options(encoder=Encoder(lossless=True))


def read_all(root, options=LOSSLESS):
    reader, checks = LeRobot(root, options), Checks()
    return [checks(reader.episode(i)) for i in range(len(reader))]


def refused(root, options=LOSSLESS):
    with pytest.raises(UserError) as error:
        read_all(root, options)
    assert "\n" not in str(error.value)
    return str(error.value)


def rewrite(path, change, **options):
    """Writes a parquet file again; `change` gets its columns as lists."""
    table = pq.read_table(path)
    columns = table.to_pydict()
    change(columns)
    types = {name: table.schema.field(name).type for name in table.column_names}
    arrays = {name: pa.array(values, types.get(name)) for name, values in columns.items()}
    pq.write_table(pa.table(arrays), path, **options)


def episodes_of(root):
    return root / "meta/episodes/chunk-000/file-000.parquet"


def assert_right_pictures(episodes):
    for e, episode in enumerate(episodes):
        for t, data in enumerate(episode.images["observation/top"]):
            found = images.decode(data, "x").astype(int)
            assert np.abs(found - source_files.picture(10 * e + t)).max() <= 12, (e, t)


@pytest.mark.parametrize("drift", [0.05, 0.4, -0.3])
def test_time_stamps_that_drift_do_not_shift_pictures(tmp_path, drift, capsys):
    def shift(columns):
        key = f"videos/{CAMERA}/from_timestamp"
        columns[key] = [time + e * drift / FPS for e, time in enumerate(columns[key])]

    root = source_files.lerobot(tmp_path / "x")
    rewrite(episodes_of(root), shift)
    assert_right_pictures(read_all(root))
    said = capsys.readouterr()
    assert "so they are counted" in said.out + said.err


def test_a_film_with_more_frames_than_steps_goes_by_its_time_stamps(tmp_path):
    root = source_files.lerobot(tmp_path / "x", images=lambda frames: [*frames, frames[0]])
    assert_right_pictures(read_all(root))

    def shift(columns):
        columns[f"videos/{CAMERA}/from_timestamp"][2] += 0.2 / FPS

    rewrite(episodes_of(root), shift)
    assert "no frame at 1.120 s: expected one within 0.0001 s" in refused(root)
    assert_right_pictures(read_all(root, Options(encoder=LOSSLESS.encoder, tolerance_s=0.03)))
    with pytest.raises(UserError, match=r"tolerance_s: expected 0 to less than 0\.05 s"):
        LeRobot(root, Options(tolerance_s=0.05))


def test_episodes_that_overlap_in_a_film_are_refused(tmp_path):
    def shift(columns):
        columns[f"videos/{CAMERA}/from_timestamp"][2] -= 2 / FPS

    root = source_files.lerobot(tmp_path / "x")
    rewrite(episodes_of(root), shift)
    assert "episode 2: videos/observation.images.top/from_timestamp: expected 1.1" in refused(root)


EPISODES = {
    "length": (lambda c: c["length"].__setitem__(1, 7), "dataset_to_index: expected 12"),
    "from": (lambda c: c["dataset_from_index"].__setitem__(2, 12), "dataset_from_index: expected"),
    "to": (lambda c: c["dataset_to_index"].__setitem__(0, 6), "dataset_to_index: expected 5"),
    "twice": (lambda c: c["episode_index"].__setitem__(2, 1), "expected episode_index 2, found 1"),
    "task": (lambda c: c["tasks"].__setitem__(1, ["fly"]), "names: fly"),
    "file": (lambda c: c["data/file_index"].__setitem__(1, 1), "file-000.parquet is too long"),
    "negative": (lambda c: c["data/chunk_index"].__setitem__(1, -1), "expected 0 or more"),
    "empty": (lambda c: c["length"].__setitem__(1, None), "column length, row 1: empty"),
    "mean": (
        lambda c: c["stats/action/mean"][1].__setitem__(3, 0.7),
        "action dimension 3: its mean is not what the metadata say: expected 0.7",
    ),
    "count": (lambda c: c["stats/action/count"].__setitem__(0, [6]), "expected 6, found 5"),
    "size": (lambda c: c["stats/action/max"].__setitem__(0, [1.0]), "expected 6 numbers"),
}


@pytest.mark.parametrize("kind", EPISODES)
def test_metadata_that_contradict_the_data_are_refused(tmp_path, kind):
    change, message = EPISODES[kind]
    root = source_files.lerobot(tmp_path / "x", filmed=False)
    rewrite(episodes_of(root), change)
    assert message in refused(root)
    if kind in ("mean", "count", "size"):
        read_all(root, Options(check_statistics=False))


ROWS = {
    "a changed number": (
        lambda c: c["action"][3].__setitem__(2, c["action"][3][2] + 1e-3),
        "dimension 2: its mean is not what",
    ),
    "a list that is longer": (lambda c: c["note"].__setitem__(0, "y"), None),
    "a step out of order": (lambda c: c["frame_index"].__setitem__(2, 3), "step 2: frame_index"),
    "another index": (lambda c: c["index"].__setitem__(6, 9), "step 1: index: expected 6, found 9"),
    "another type": (
        lambda c: c.__setitem__("next.reward", ["a"] * len(c["next.reward"])),
        "next.reward: expected float32, found string",
    ),
    "fractions": (
        lambda c: c.__setitem__("next.done", [0.5] * len(c["next.done"])),
        None,
    ),
}


@pytest.mark.parametrize("kind", ROWS)
def test_tables_that_contradict_the_metadata_are_refused(tmp_path, kind):
    change, message = ROWS[kind]
    root = source_files.lerobot(tmp_path / "x", filmed=False)
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    columns = table.to_pydict()
    change(columns)
    pq.write_table(pa.table(columns), path)
    if message is None:
        read_all(root)
    else:
        assert message in refused(root)


def test_lists_of_different_lengths_are_refused_though_they_add_up(tmp_path):
    root = source_files.lerobot(tmp_path / "x", filmed=False, episodes=1)
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    wrench = [[0.0] * n for n in (1, 3, 2, 2, 2)]
    pq.write_table(table.append_column("wrench", pa.array(wrench)), path)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["wrench"] = {"dtype": "float32", "shape": [2]}
    (root / "meta/info.json").write_text(json.dumps(info))
    assert "wrench: expected [2] numbers at each step, found lists of 1, 2, 3" in refused(root)


def test_checksums_of_pages_are_verified_where_there_are_any(tmp_path):
    root = source_files.lerobot(tmp_path / "x", filmed=False)
    path = root / "data/chunk-000/file-001.parquet"
    options = {"compression": "none", "use_dictionary": False}
    whole = pq.read_table(path)
    pq.write_table(whole, path, write_page_checksum=True, **options)
    read_all(root)
    value = np.float32(whole["action"].to_pylist()[2][1]).tobytes()
    data = bytearray(path.read_bytes())
    place = data.index(value)
    assert place > 0
    data[place] ^= 1  # the last bit of a number: no statistic notices
    path.write_bytes(data)
    assert "CRC" in refused(root)


def test_statistics_of_row_groups_are_compared(tmp_path):
    root = source_files.lerobot(tmp_path / "x", filmed=False)
    path = root / "data/chunk-000/file-001.parquet"
    whole = pq.read_table(path)
    pq.write_table(whole, path, compression="none", use_dictionary=False)
    lowest = np.min(np.array(whole["action"].to_pylist(), np.float32)).tobytes()
    sound, said = path.read_bytes(), []
    for match in re.finditer(re.escape(lowest), sound):  # the number, and the statistics of it
        data = bytearray(sound)
        data[match.start() + 2] ^= 1
        path.write_bytes(data)
        with contextlib.suppress(UserError):
            read_all(root, Options(check_statistics=False))
            continue
        said.append(refused(root, Options(check_statistics=False)))
    told = "column action.list.element: not as the file's own statistics say"
    assert sum(told in message for message in said) >= 2


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
def test_version_2_is_read(tmp_path, version):
    root = source_files.lerobot_v2(tmp_path / "x", version=version)
    found = read_all(root)
    assert [len(episode) for episode in found] == [5, 6, 7]
    assert [episode.instructions[0] for episode in found] == [
        source_files.TASKS[e % 2] for e in range(3)
    ]
    for e, episode in enumerate(found):
        np.testing.assert_array_equal(
            episode.arrays["action"], source_files.vectors(e, 5 + e)["action"]
        )
    assert_right_pictures(found)


def test_version_2_holds_numbers_against_its_statistics(tmp_path):
    root = source_files.lerobot_v2(tmp_path / "x")
    path = root / "meta/episodes_stats.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1]["stats"]["action"]["min"][4] -= 0.01
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "episode 1: action dimension 4: its min is not" in refused(root)


def overall_of(root, change):
    path = root / "meta/stats.json"
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))


@pytest.mark.parametrize("make", ["lerobot", "lerobot_v2"])
def test_what_the_statistics_of_all_episodes_do_not_cover_is_noted_once(tmp_path, capsys, make):
    more = {"filmed": False} if make == "lerobot" else {"version": "v2.0"}
    root = getattr(source_files, make)(tmp_path / "x", **more)
    assert LeRobot(root, Options()).notes == LeRobot(root, Options(check_statistics=False)).notes
    read_all(root)
    assert "stats.json" not in capsys.readouterr().out

    def other(said):
        said["action"]["max"][3] -= 0.1
        said["observation.state"]["min"][0] = float("nan")

    overall_of(root, other)
    read_all(root)
    out = " ".join(capsys.readouterr().out.split())
    assert (
        out.count("action dimension 3 is ") == out.count("observation.state dimension 0 is ") == 1
    )
    read_all(root, Options(check_statistics=False))
    assert "stats.json" not in capsys.readouterr().out


def test_statistics_of_another_number_of_steps_are_noted(tmp_path):
    root = source_files.lerobot(tmp_path / "x", filmed=False)
    overall_of(root, lambda said: said["action"].update(count=[1000]))
    assert any("stats.json is of 1,000 steps" in note for note in LeRobot(root, Options()).notes)


def test_damaged_statistics_of_all_episodes_are_refused(tmp_path):
    root = source_files.lerobot(tmp_path / "x", filmed=False)
    overall_of(root, lambda said: said["action"].update(min=[0.0, "a"]))
    assert "stats.json: min of action in the metadata: expected 6 numbers" in refused(root)
    (root / "meta/stats.json").write_text("{")
    assert "stats.json: not valid JSON" in refused(root)
    read_all(root, Options(check_statistics=False))


def test_actions_may_be_called_so(tmp_path):
    root = source_files.lerobot(tmp_path / "x", filmed=False)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["actions"] = info["features"].pop("action")
    (root / "meta/info.json").write_text(json.dumps(info))
    for path in root.glob("data/*/*.parquet"):
        table = pq.read_table(path)
        names = [name.replace("action", "actions") for name in table.column_names]
        pq.write_table(table.rename_columns(names), path)
    assert read_all(root)[0].arrays["action"].shape == (5, 6)
    assert "Feature actions is the action." in LeRobot(root, Options()).notes

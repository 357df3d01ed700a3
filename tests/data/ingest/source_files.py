"""Small real files in the formats that are ingested."""

import json

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
av = pytest.importorskip("av")

SIZE = 32
FPS = 10
TASKS = ("pick up the cup", "open the drawer")


def picture(seed):
    """A smooth picture that is not the same upside down: JPEG and H.264 keep it within a few."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    rgb = [0.2 + 0.6 * y, 0.2 + 0.6 * x, np.full_like(x, (seed % 7 + 1) / 9)]
    return np.round(np.stack(rgb, axis=-1) * 255).astype(np.uint8)


def pictures(episode, steps):
    return np.stack([picture(10 * episode + t) for t in range(steps)])


def numbers(episode, steps, size):
    return np.random.default_rng([episode, size]).normal(size=(steps, size))


def libero(path, *, episodes=4, instruction='"pick up the bowl"', change=None):
    """Writes one of LIBERO's files; `change(file)` may then damage it."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["macros_image_convention"] = "opengl"
        if instruction is not None:
            data.attrs["problem_info"] = json.dumps({"language_instruction": instruction})
        for e in range(episodes):
            steps = 5 + e
            demo = data.create_group(f"demo_{e}")
            obs = demo.create_group("obs")
            obs["agentview_rgb"] = pictures(e, steps)
            obs["eye_in_hand_rgb"] = pictures(e + 1, steps)
            obs["ee_states"] = numbers(e, steps, 6)
            obs["ee_pos"], obs["ee_ori"] = obs["ee_states"][:, :3], obs["ee_states"][:, 3:]
            obs["gripper_states"] = numbers(e, steps, 2)
            obs["joint_states"] = numbers(e, steps, 7)
            demo["actions"] = np.tanh(numbers(e, steps, 7))
            demo["dones"] = demo["rewards"] = np.eye(1, steps, steps - 1, dtype=np.uint8)[0]
        if change:
            change(file)
    return path


def robomimic(path, *, episodes=3, lang=None, change=None):
    """Writes one of robomimic's files, with a depth map that cannot be used."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift"})
        for e in range(episodes):
            steps = 4 + e
            demo = data.create_group(f"demo_{e}")
            if lang:
                demo.attrs["ep_meta"] = json.dumps({"lang": lang})
            demo["obs/agentview_image"] = pictures(e, steps)
            demo["obs/agentview_depth"] = np.zeros((steps, SIZE, SIZE, 1), np.float32)
            for name, size in (("pos", 3), ("quat", 4)):
                demo[f"obs/robot0_eef_{name}"] = numbers(e, steps, size)
            demo["obs/robot0_gripper_qpos"] = numbers(e, steps, 2)
            demo["actions"] = np.tanh(numbers(e, steps, 7))
            demo["rewards"], demo["dones"] = np.zeros(steps), np.zeros(steps, np.int64)
        if change:
            change(file)
    return path


def film(path, images):
    """Writes an MP4 as LeRobot does: a key frame every second frame, many episodes in a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        options = {"g": "2", "crf": "10"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for image in images:
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def _features(camera, *, filmed):
    joints = [f"j{i}" for i in range(6)]
    return {
        camera: {"dtype": "video" if filmed else "image", "shape": [SIZE, SIZE, 3]},
        "observation.state": {"dtype": "float32", "shape": [6], "names": joints},
        "action": {"dtype": "float32", "shape": [6], "names": {"motors": joints}},
        "next.reward": {"dtype": "float32", "shape": [1]},
        "next.done": {"dtype": "bool", "shape": [1]},
        "note": {"dtype": "string", "shape": [1]},
        **{
            name: {"dtype": "float32" if name == "timestamp" else "int64", "shape": [1]}
            for name in ("timestamp", "frame_index", "episode_index", "index", "task_index")
        },
    }


def lerobot(root, *, filmed=True, episodes=4, info=None, columns=None, images=None):
    """Writes a LeRobot v3 dataset: two episodes per data file, all in one video.

    Args:
      root: the folder, made here.
      filmed: a video; otherwise PNG bytes in the table.
      episodes: how many; episode e has 5 + e steps.
      info: entries that replace those of meta/info.json.
      columns: called with (episode, its columns as lists) to change what is stored.
      images: called with all frames to change what is filmed.
    """
    camera = "observation.images.top"
    lengths = [5 + e for e in range(episodes)]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    features = _features(camera, filmed=filmed)
    (root / "meta").mkdir(parents=True)
    entries = {"codebase_version": "v3.0", "fps": FPS, "features": features, "robot_type": "so101"}
    (root / "meta/info.json").write_text(json.dumps(entries | (info or {})))
    # The text column is called as pandas calls an index without a name.
    table = pa.table({"task_index": [0, 1], "__index_level_0__": list(TASKS)})
    pq.write_table(table, root / "meta/tasks.parquet")
    rows = []
    for e, steps in enumerate(lengths):
        row = {
            "episode_index": e,
            "tasks": [TASKS[e % 2]],
            "length": steps,
            "dataset_from_index": int(starts[e]),
            "dataset_to_index": int(starts[e + 1]),
            "data/chunk_index": 0,
            "data/file_index": e // 2,
        }
        row |= {
            f"stats/{key}/{name}": value
            for key, each in statistics(e, steps).items()
            for name, value in each.items()
        }
        if filmed:
            place = {"chunk_index": 0, "file_index": 0, "from_timestamp": float(starts[e]) / FPS}
            row |= {f"videos/{camera}/{name}": value for name, value in place.items()}
        rows.append(row)
    (root / "meta/stats.json").write_text(json.dumps(overall(lengths)))
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), root / "meta/episodes/chunk-000/file-000.parquet")
    _tables(root, lengths, starts, None if filmed else camera, columns)
    if filmed:
        frames = [image for e, steps in enumerate(lengths) for image in pictures(e, steps)]
        film(root / f"videos/{camera}/chunk-000/file-000.mp4", (images or list)(frames))
    return root


def overall(lengths):
    """The statistics of all episodes together, as meta/stats.json has them."""
    rows = [vectors(e, steps) for e, steps in enumerate(lengths)]
    whole = {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
    return {
        key: {
            name: [float(value) for value in getattr(np, name)(values, axis=0)]
            for name in ("min", "max", "mean", "std")
        }
        | {"count": [len(values)]}
        for key, values in whole.items()
    }


def vectors(e, steps):
    """State and action of an episode."""
    values = numbers(e, steps, 6)
    return {"observation.state": values.astype("f4"), "action": np.tanh(values).astype("f4")}


def statistics(e, steps):
    """What LeRobot writes about an episode."""
    return {
        key: {
            name: [float(value) for value in getattr(np, name)(values, axis=0)]
            for name in ("min", "max", "mean", "std")
        }
        | {"count": [steps]}
        for key, values in vectors(e, steps).items()
    }


def lerobot_v2(root, *, version="v2.1", episodes=3, info=None):
    """Writes a LeRobot v2 dataset: a data file and a film per episode, metadata in JSON."""
    camera = "observation.images.top"
    features = {
        camera: {"dtype": "video", "shape": [3, SIZE, SIZE], "names": ["channels", "h", "w"]},
        "observation.state": {"dtype": "float32", "shape": [6], "names": None},
        "action": {"dtype": "float32", "shape": [6], "names": None},
    }
    lengths = [5 + e for e in range(episodes)]
    entries = {"codebase_version": version, "fps": FPS, "features": features, "robot_type": "koch"}
    entries |= {"total_episodes": episodes, "total_frames": sum(lengths), "chunks_size": 2}
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(entries | (info or {})))
    lines = {"tasks": [{"task_index": k, "task": task} for k, task in enumerate(TASKS)]}
    lines["episodes"] = [
        {"episode_index": e, "tasks": [TASKS[e % 2]], "length": steps}
        for e, steps in enumerate(lengths)
    ]
    if version == "v2.0":
        (root / "meta/stats.json").write_text(json.dumps(overall(lengths)))
    if version == "v2.1":
        lines["episodes_stats"] = [
            {"episode_index": e, "stats": statistics(e, steps)} for e, steps in enumerate(lengths)
        ]
    for name, rows in lines.items():
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        (root / f"meta/{name}.jsonl").write_text(text)
    for e, steps in enumerate(lengths):
        columns = {name: values.tolist() for name, values in vectors(e, steps).items()}
        columns |= {"timestamp": (np.arange(steps) / FPS).tolist(), "frame_index": range(steps)}
        columns |= {"episode_index": [e] * steps, "task_index": [e % 2] * steps}
        path = root / f"data/chunk-{e // 2:03d}/episode_{e:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)
        film(root / f"videos/chunk-{e // 2:03d}/{camera}/episode_{e:06d}.mp4", pictures(e, steps))
    return root


def _tables(root, lengths, starts, camera, change):
    folder = root / "data/chunk-000"
    folder.mkdir(parents=True)
    for first in range(0, len(lengths), 2):
        writer = None
        for e in range(first, min(first + 2, len(lengths))):
            steps = lengths[e]
            columns = {
                **{name: values.tolist() for name, values in vectors(e, steps).items()},
                "next.reward": [0.0] * (steps - 1) + [1.0],
                "next.done": [False] * (steps - 1) + [e % 2 == 0],
                "note": ["x"] * steps,
                "timestamp": (np.arange(steps) / FPS).astype(np.float32).tolist(),
                "frame_index": list(range(steps)),
                "episode_index": [e] * steps,
                "index": list(range(starts[e], starts[e + 1])),
                "task_index": [e % 2] * steps,
            }
            if camera:
                columns[camera] = [
                    {"bytes": png(each), "path": None} for each in pictures(e, steps)
                ]
            if change:
                change(e, columns)
            vector = pa.list_(pa.float32(), 6)
            types = {"observation.state": vector, "action": vector, "next.reward": pa.float32()}
            types |= {"timestamp": pa.float32()}
            table = pa.table(
                {name: pa.array(values, types.get(name)) for name, values in columns.items()}
            )
            path = folder / f"file-{first // 2:03d}.parquet"
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
        writer.close()


def png(image):
    import cv2

    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()

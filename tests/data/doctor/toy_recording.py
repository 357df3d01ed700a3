"""A recording that is healthy, and ways to make one sick."""

import cv2
import numpy as np

from vla_jax.data.doctor.recording import Recording
from vla_jax.data.robots.robot import Columns
from vla_jax.data.robots.standardize import end_effector_spec

LENGTHS = (30, 24, 40, 18, 36, 28)
SPEC = end_effector_spec(frame="base", control_hz=5.0)


def png(value, size=16):
    image = np.full((size, size, 3), value, np.uint8)
    image[: size // 2] //= 2  # not of one colour
    return cv2.imencode(".png", image)[1].tobytes()


def actions(lengths=LENGTHS, seed=0):
    """Float32 [i, 7]: motion of up to 2 cm and 0.1 rad, the gripper closing halfway."""
    rng = np.random.default_rng(seed)
    count = sum(lengths)
    motion = rng.uniform(-1, 1, (count, 6)) * ([0.02] * 3 + [0.1] * 3)
    gripper = np.concatenate([np.arange(n) < n / 2 for n in lengths])
    return np.concatenate([motion, gripper[:, None]], axis=1).astype(np.float32)


def make(action=None, *, lengths=LENGTHS, arrays=None, texts=None, image=None, **changes):
    """A Recording of episodes of these lengths, all healthy but for what is given."""
    episode = np.repeat(np.arange(len(lengths)), lengths)
    columns = Columns(arrays=dict(arrays or {}), episode=episode)
    steps = np.concatenate([np.arange(n) for n in lengths])
    fields = {
        "columns": columns,
        "action": actions(lengths) if action is None else action,
        "names": SPEC.names,
        "spec": SPEC,
        "state": None,
        "keep": np.ones(len(episode), bool),
        "texts": {"steps/language": (episode % 2, ["pick it up", "put it down"])}
        if texts is None
        else texts,
        "cameras": ("steps/observation/image",),
        "image": image or (lambda camera, i: png(int(i) % 200 + 40)),
        "place": lambda i: f"toy shard 0 episode {episode[i]} step {steps[i]}",
    }
    return Recording(**(fields | changes))

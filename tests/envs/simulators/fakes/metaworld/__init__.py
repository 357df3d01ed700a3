"""The part of Meta-World's interface that is used: a hand that has to reach a goal."""

import numpy as np

from metaworld.policies import ENV_POLICY_MAP

LIMIT = 40
drawn = []  # how often goals were drawn, which takes the real one seconds


class Camera:
    pos = (0.0, 0.0, 0.0)


class Model:
    def __init__(self):
        self.cameras = {}

    def camera(self, name):
        return self.cameras.setdefault(name, Camera())


class Data:
    """What a renderer sees; like MuJoCo's it has the camera of the last forward computation."""


class Sawyer:
    def __init__(self):
        self.model, self.data, self.closed = Model(), Data(), False

    def set_task(self, task):
        self._goal = task

    def reset(self):
        self._hand, self._opening, self._steps = np.array([0.0, 0.6, 0.2]), 1.0, 0
        return self._seen(), {}

    def step(self, action):
        assert np.abs(action).max() <= 1
        self._hand = self._hand + np.asarray(action[:3]) * 0.01
        self._opening = float(np.clip(self._opening - 0.5 * action[3], 0, 1))
        self._steps += 1
        near = np.linalg.norm(self._hand - self._goal) < 0.01
        return self._seen(), 0.0, False, self._steps == LIMIT, {"success": float(near)}

    def close(self):
        self.closed = True

    def _seen(self):
        camera = self.model.cameras.get("corner2")
        self.data.picture = (self._hand, None if camera is None else tuple(camera.pos))
        return np.concatenate([self._hand, [self._opening], np.zeros(32), self._goal])


class MT1:
    def __init__(self, task, seed):
        drawn.append((task, seed))
        rng = np.random.default_rng([seed, len(task)])
        low, high = (-0.1, 0.65, 0.1), (0.1, 0.75, 0.3)
        self.train_tasks = list(rng.uniform(low, high, (50, 3)))


ALL_V3_ENVIRONMENTS = dict.fromkeys(ENV_POLICY_MAP, Sawyer)

"""The part of the simulator's interface that is used: a rod that has to reach a place."""

import numpy as np
import tensorflow as tf  # noqa: F401

alive = []
pictures = []


class Client:
    def __init__(self):
        alive.append(self)

    def disconnect(self):
        alive.remove(self)


class LanguageTable:
    def __init__(self, block_mode, reward_factory, seed):
        assert block_mode.name == "BLOCK_8"
        self.pybullet_client = Client()
        self._rng, self._reward = np.random.RandomState(seed), reward_factory()
        self.draws = 0
        self.reset()

    def reset(self):
        self.draws += 1
        self._rod = self._rng.uniform((0.2, -0.2), (0.5, 0.2))
        self._goal = self._rng.uniform((0.2, -0.2), (0.5, 0.2))
        # Like the real one, words are drawn from the global generator.
        self._text = f"{self._reward.verb} the {np.random.choice(['red', 'blue'])} block"
        return self._observation()

    def step(self, action):
        self._rod = self._rod + np.asarray(action)
        reward = 100.0 if np.linalg.norm(self._rod - self._goal) < 0.02 else 0.0
        return self._observation(), reward, reward > 0, {}

    def compute_state(self):
        return {"rod": self._rod, "goal": self._goal, "rgb": self._render_camera((180, 320))}

    @staticmethod
    def decode_instruction(codes):
        return bytes(int(code) for code in codes if code).decode()

    def _render_camera(self, image_size):
        pictures.append(image_size)
        return np.full((*image_size, 3), int(200 * self._rod[0]), np.uint8)

    def _observation(self):
        codes = np.zeros(512, np.int32)
        codes[: len(self._text)] = list(self._text.encode())
        return {
            "rgb": self._render_camera((180, 320)),
            "effector_translation": self._rod.astype(np.float32),
            "effector_target_translation": self._rod.astype(np.float32),
            "instruction": codes,
        }

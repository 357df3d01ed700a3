"""A hand that has to go down by 2 cm and close."""

import numpy as np

built = []


class OffScreenRenderEnv:
    def __init__(self, bddl_file_name, camera_heights, camera_widths):
        self._size = (camera_heights, camera_widths, 3)
        self.file, self.closed = bddl_file_name, False
        built.append(self)

    def reset(self):
        self._decoration = np.random.randint(255)  # placed from the global generator
        self.commands = []

    def set_init_state(self, state):
        self._hand, self._finger = np.array([state[0], 0.0, 0.2]), 0.04
        return self._seen()

    def step(self, command):
        assert np.abs(command).max() <= 1
        self.commands.append(np.asarray(command))
        self._hand = self._hand + 0.05 * command[:3]
        self._finger = float(np.clip(self._finger - 0.02 * np.sign(command[6]), 0, 0.04))
        done = self._hand[2] < 0.18 and self._finger == 0
        return self._seen(), float(done), done, {}

    def close(self):
        self.closed = True

    def _seen(self):
        image = np.zeros(self._size, np.uint8)
        image[0, 0] = 255
        image[0, 1] = self._decoration
        return {
            "agentview_image": image,
            "robot0_eye_in_hand_image": image,
            "robot0_eef_pos": self._hand,
            "robot0_eef_quat": np.array([1.0, 0.0, 0.0, 0.0]),  # half a turn about x
            "robot0_gripper_qpos": np.array([self._finger, -self._finger]),
        }

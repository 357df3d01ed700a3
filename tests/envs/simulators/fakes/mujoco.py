"""MuJoCo's renderer: the hand is a bright corner pixel of a picture that hangs upside down."""

import numpy as np


class Renderer:
    def __init__(self, model, height, width):
        self._size = (height, width, 3)

    def update_scene(self, data, camera):
        self._picture = np.zeros(self._size, np.uint8)
        hand, position = data.picture
        self._picture[0, 0] = np.round(np.array(hand) * 200 + 50)
        self._picture[0, 1] = 255 if position == (0.75, 0.075, 0.7) else 0

    def render(self):
        return self._picture

    def close(self):
        pass

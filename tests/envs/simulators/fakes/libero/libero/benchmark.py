"""Suites: names, sentences, initial states."""

import types

import numpy as np


class Suite:
    def __init__(self, name):
        self._name = name

    def get_task(self, i):
        return types.SimpleNamespace(language=f"put thing {i} into the basket")

    def get_task_bddl_file_path(self, i):
        return f"{self._name}/{i}.bddl"

    def get_task_init_states(self, i):
        states = np.zeros((50, 3))
        states[:, 0] = np.arange(50) / 100
        return states


def get_benchmark(name):
    return lambda: Suite(name)

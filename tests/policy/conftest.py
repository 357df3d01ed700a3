"""Policies that most tests share, built once per session."""

import sys

import numpy as np
import pytest
from small_policies import CONFIGS, INSTRUCTIONS, OTHERS, as_observations, build_policy


@pytest.fixture(scope="session")
def observe():
    """Makes observations of the present step from uint8 [b, w, y, x, 3]."""
    return as_observations


@pytest.fixture(scope="session")
def tiny():
    """The policy that most tests share; they leave its parameters as they are."""
    return build_policy(CONFIGS["pyramid"])


@pytest.fixture(scope="session")
def observations():
    """64 observations of one view: pictures of three scales of noise, and instructions."""
    rng = np.random.default_rng(5)
    coarse = [rng.integers(0, 256, (64, 1, n, n, 3), np.uint8) for n in (4, 8, 32)]
    full = [np.repeat(np.repeat(x, 32 // x.shape[2], 2), 32 // x.shape[2], 3) for x in coarse]
    images = np.where(np.arange(64)[:, None, None, None, None] % 2, full[0], full[1])
    images = np.where(np.arange(64)[:, None, None, None, None] % 5, images, full[2])
    return as_observations(images), [INSTRUCTIONS[i % len(INSTRUCTIONS)] for i in range(64)]


@pytest.fixture(scope="session")
def multi_query():
    """A policy of the other kinds: GELU, learned positions, one key head, another prompt."""
    return build_policy(CONFIGS["multi_query"], prompt="openvla", seed=2, prefix=80)


@pytest.fixture(scope="session", params=["pyramid", "multi_query", *OTHERS])
def any_built(request, tiny, multi_query):
    """Each kind of model, prompt and token scheme that an export must carry."""
    known = {"pyramid": tiny, "multi_query": multi_query}
    return known.get(request.param) or OTHERS[request.param]()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Models this small only lose time to threads."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)

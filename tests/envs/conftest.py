"""Two small datasets on disk, written once for all tests of this folder."""

import pytest

from vla_jax.envs.tabletop import datasets
from vla_jax.envs.tabletop.answers import KINDS
from vla_jax.envs.tabletop.datasets import DatasetsConfig
from vla_jax.envs.tabletop.demonstrations import DemonstrationsConfig
from vla_jax.envs.tabletop.questions import QuestionsConfig


@pytest.fixture(scope="session")
def small_config():
    return DatasetsConfig(
        seed=3,
        demonstrations=DemonstrationsConfig(episodes=60),
        questions=QuestionsConfig(train=300, validation=20, kinds=dict.fromkeys(KINDS, 1.0)),
    )


@pytest.fixture(scope="session")
def small_datasets(small_config, tmp_path_factory):
    return datasets.ensure(small_config, tmp_path_factory.mktemp("data"), workers=1)

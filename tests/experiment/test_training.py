import pytest

from vla_jax.core.errors import UserError
from vla_jax.experiment import training
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.workdir import Workdir
from vla_jax.models.vlm_config import VLMConfig


def test_a_backend_of_another_device_is_refused_before_anything_is_written(tmp_path):
    config = RunConfig(model=VLMConfig(backend="splash"))
    with pytest.raises(UserError, match=r"config\.model\.backend=splash: expected a TPU"):
        training.train(config, Workdir(tmp_path / "run"))
    assert not (tmp_path / "run").exists()

import pytest

from vla_jax.core.errors import UserError
from vla_jax.data.loader import LoaderConfig
from vla_jax.experiment import training
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.workdir import Workdir
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.runtime.mesh import MeshConfig


def test_a_backend_of_another_device_is_refused_before_anything_is_written(tmp_path):
    config = RunConfig(model=VLMConfig(backend="splash"))
    with pytest.raises(UserError, match=r"config\.model\.backend=splash: expected a TPU"):
        training.train(config, Workdir(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_batch_that_the_mesh_does_not_divide_is_refused_before_anything_is_written(tmp_path):
    config = RunConfig(
        loader=LoaderConfig(batch_size=12), mesh=MeshConfig(data=2, fsdp=4), data_dir="nowhere"
    )
    with pytest.raises(
        UserError,
        match=r"config\.loader\.batch_size: expected a multiple of 8 \(.*\), found 12\. Change it",
    ):
        training.train(config, Workdir(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_more_devices_than_there_are_is_refused_before_anything_is_written(tmp_path):
    config = RunConfig(mesh=MeshConfig(data=16), data_dir="nowhere")
    with pytest.raises(UserError, match=r"mesh data=16, .*multiply to the 8 devices"):
        training.train(config, Workdir(tmp_path / "run"))
    assert not (tmp_path / "run").exists()

import pytest

from vla_jax.core.errors import UserError
from vla_jax.data.loader import LoaderConfig
from vla_jax.experiment import training
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.workdir import Workdir
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.runtime.mesh import MeshConfig
from vla_jax.train.optimizer import OptimizerConfig


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


def test_so_is_one_that_is_not_divided_into_the_parts_of_an_accumulation(tmp_path):
    config = RunConfig(
        loader=LoaderConfig(batch_size=16),
        mesh=MeshConfig(fsdp=4),
        optimizer=OptimizerConfig(accumulate=4),
    )
    with pytest.raises(UserError, match=r"a multiple of 32 \(8, .*, x 4 parts\), found 16"):
        training.train(config, Workdir(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_more_devices_than_there_are_is_refused_before_anything_is_written(tmp_path):
    config = RunConfig(mesh=MeshConfig(data=16), data_dir="nowhere")
    with pytest.raises(UserError, match=r"mesh slice=1, data=16, .*multiply to the 8 devices"):
        training.train(config, Workdir(tmp_path / "run"))
    assert not (tmp_path / "run").exists()

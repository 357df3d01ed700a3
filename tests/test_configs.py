"""Every config file and every variant of it is a run that could start."""

import json
import pathlib
import runpy

import jax
import pytest

from vla_jax.core import config as config_lib
from vla_jax.core.errors import UserError
from vla_jax.experiment import parts
from vla_jax.experiment.config import RunConfig
from vla_jax.runtime import mesh

FILES = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))
MODULES = {file.stem: runpy.run_path(str(file)) for file in FILES}
CASES = [(name, variant) for name, module in MODULES.items() for variant in module["VARIANTS"]]


def test_there_are_config_files():
    assert "tabletop" in MODULES


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_every_variant_is_a_run(name, variant):
    config = config_lib.build(RunConfig, MODULES[name]["get_config"](variant))
    assert config_lib.from_json(RunConfig, json.loads(json.dumps(config_lib.to_json(config)))) == (
        config
    )
    # As many devices as the run asks of a CPU share its batch and its parameters.
    devices = jax.devices()[: config.mesh.cpu_devices]
    model = parts.Model(config, 1024, mesh.make_mesh(config.mesh, devices))
    assert model.size > 0
    assert config.loader.batch_size % len(devices) == 0
    assert config.optimizer.schedule.warmup_steps < config.loop.steps


@pytest.mark.parametrize("name", MODULES)
def test_variants_differ_and_the_first_is_the_default(name):
    module = MODULES[name]
    trees = [
        config_lib.to_json(config_lib.build(RunConfig, module["get_config"](variant)))
        for variant in module["VARIANTS"]
    ]
    default = config_lib.to_json(config_lib.build(RunConfig, module["get_config"]()))
    assert default == trees[0]
    assert len({json.dumps(tree, sort_keys=True) for tree in trees}) == len(trees)


@pytest.mark.parametrize("name", MODULES)
def test_an_unknown_variant_is_refused_with_those_there_are(name):
    with pytest.raises(UserError, match=rf"variant of configs/{name}\.py.*found nonsense"):
        MODULES[name]["get_config"]("nonsense")

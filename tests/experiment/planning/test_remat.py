import dataclasses

import jax

from vla_jax.experiment.model import Model
from vla_jax.experiment.planning import remat
from vla_jax.experiment.planning.estimate import estimate
from vla_jax.experiment.planning.shapes import Shapes
from vla_jax.models import variants
from vla_jax.runtime import mesh as mesh_lib

VOCABULARY = 512
MESH = mesh_lib.abstract_mesh(mesh_lib.MeshConfig(), 1)


def given(config, kind):
    model = dataclasses.replace(variants.variants()["paligemma_3b_224"], remat=kind)
    return dataclasses.replace(config, model=model)


def needed(config, kind):
    config = given(config, kind)
    return estimate(config, Shapes(Model(config, VOCABULARY, MESH)), VOCABULARY).total


def test_the_least_that_fits_is_chosen(config):
    sizes = {kind: needed(config, kind) for kind in remat.REMATS}
    assert sizes["none"] > sizes["dots"] > sizes["full"]
    open_ = given(config, "auto")
    for kind in remat.REMATS:
        chosen = remat.choose(open_, VOCABULARY, MESH, 1.001 * sizes[kind] / 0.9)
        assert chosen.model.remat == kind
    assert remat.choose(open_, VOCABULARY, MESH, 1.0).model.remat == "full"


def test_what_is_given_stays(config):
    fixed = given(config, "none")
    assert remat.choose(fixed, VOCABULARY, MESH, 1.0) is fixed


def test_devices_of_unknown_memory_recompute_nothing(config, capsys):
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(), jax.devices()[:1])
    chosen = remat.chosen_for(given(config, "auto"), VOCABULARY, mesh)
    assert chosen.model.remat == "none"
    out = capsys.readouterr()
    assert "remat=auto: none" in out.out + out.err

import dataclasses

import jax
import pytest

from vla_jax.core.errors import UserError
from vla_jax.experiment.model import Model
from vla_jax.experiment.planning import fit
from vla_jax.experiment.planning.estimate import estimate
from vla_jax.experiment.planning.shapes import Shapes
from vla_jax.models import variants
from vla_jax.runtime import chips
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
    sizes = {kind: needed(config, kind) for kind in fit.REMATS}
    assert sizes["none"] > sizes["dots"] > sizes["narrow"] > sizes["full"]
    open_ = given(config, "auto")
    # The products of attention are all that `none` saves, a few thousandths of a step.
    assert fit.remats(open_, VOCABULARY) == ["dots", "narrow", "full"]
    for kind in fit.remats(open_, VOCABULARY):
        chosen = fit.choose_remat(open_, VOCABULARY, MESH, 1.001 * sizes[kind] / 0.9)
        assert chosen.model.remat == kind
    assert fit.choose_remat(open_, VOCABULARY, MESH, 1.0).model.remat == "full"


def test_what_is_given_stays(config):
    fixed = given(config, "none")
    assert fit.choose_remat(fixed, VOCABULARY, MESH, 1.0) is fixed


def test_devices_of_unknown_memory_recompute_nothing(config, capsys):
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(), jax.devices()[:1])
    chosen = fit.fit(given(config, "auto"), VOCABULARY, mesh)
    assert chosen.model.remat == "none"
    out = capsys.readouterr()
    assert "remat=auto: none" in out.out + out.err


def test_a_state_without_room_is_refused_before_anything_is_made(config, monkeypatch):
    small = dataclasses.replace(chips.CHIPS["v5e"], memory=2.0 * chips.GIB)
    monkeypatch.setattr(chips, "of", lambda device: small)
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(data=1, fsdp=8))
    # 2.4 billion parameters and their moments, over eight devices of 2 GiB.
    with pytest.raises(UserError, match=r"at most 2\.0 GiB per device, found 3\.4 GiB"):
        fit.fit(given(config, "auto"), VOCABULARY, mesh)


def test_a_full_device_is_told_in_one_line():
    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory on hbm.\nmore")
    with (
        pytest.raises(UserError, match=r"full: found RESOURCE_EXHAUSTED: .*plan"),
        fit.memory_errors(),
    ):
        raise full
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), fit.memory_errors():
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

"""The plans in benchmarks/results/plan: what is counted has not changed, nor what is compiled."""

import json
import pathlib
import runpy

import pytest

from vla_jax.core import config as config_lib
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.planning import plan as plans
from vla_jax.runtime import mesh
from vla_jax.runtime.chips import GIB
from vla_jax.runtime.topology import Topology

ROOT = pathlib.Path(__file__).parents[3]
FILES = sorted((ROOT / "benchmarks/results/plan").glob("*.json"))
CONFIGS = {
    "tabletop_v5e-4": "tabletop.py",
    "paligemma_3b_v5e-16": "paligemma_bridge.py",
    "openvla_7b_v5p-64": "openvla_7b.py",
    "palix_55b_v4-512": "rt2_palix_55b.py",
    "palix_55b_v5p-512": "rt2_palix_55b.py",
}
COMPILED = ("arguments", "temporaries", "output", "aliased", "peak", "total")


def golden(name):
    return json.loads((ROOT / f"benchmarks/results/plan/{name}.json").read_text())


def run(name):
    module = runpy.run_path(str(ROOT / "configs" / CONFIGS[name]))
    return config_lib.build(RunConfig, module["get_config"]())


def on_paper(name):
    kept = golden(name)
    return plans.on_paper(run(name), kept["vocabulary"], Topology.parse(kept["topology"]))


def test_all_goldens_are_known():
    assert {file.stem for file in FILES} == set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_counted_is_what_was_counted(name):
    kept, now = golden(name), json.loads(json.dumps(on_paper(name).to_json()))
    differing = {"compiled_bytes", "needed_bytes", "fits"}
    assert now.keys() == kept.keys()
    for field in kept.keys() - differing:
        assert now[field] == pytest.approx(kept[field]), field


@pytest.mark.parametrize("name", CONFIGS)
def test_all_fit_and_the_estimate_is_no_less_than_half_and_no_more_than_twice(name):
    kept = golden(name)
    assert kept["fits"]
    assert kept["compiled_bytes"]["total"] <= kept["capacity_bytes"]
    if name != "tabletop_v5e-4":  # fixed costs of the compiler outweigh ten megabytes
        assert 0.5 < kept["estimate_bytes"]["total"] / kept["compiled_bytes"]["total"] < 2


def test_the_state_is_what_the_compiler_takes_for_arguments():
    for name in CONFIGS:
        kept = golden(name)
        planned = kept["estimate_bytes"]["state"] + kept["estimate_bytes"]["batch"]
        # A TPU pads small arrays to tiles of 8 x 128.
        assert planned == pytest.approx(kept["compiled_bytes"]["arguments"], rel=0.05), name


def test_paligemma_on_16_chips_takes_no_more_than_was_asked_for():
    kept = golden("paligemma_3b_v5e-16")
    assert (kept["batch"], kept["devices"], kept["mesh"]["fsdp"]) == (128, 16, 16)
    assert kept["compiled_bytes"]["peak"] <= 5.7 * GIB


def test_55b_fits_on_512_chips_of_v4_at_rt2s_batch():
    kept = golden("palix_55b_v4-512")
    assert (kept["topology"], kept["batch"], kept["devices"]) == ("v4:8x8x8", 2048, 512)
    assert kept["parameters"] > 54e9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tabletop_v5e-4", "paligemma_3b_v5e-16"])
def test_the_compiler_plans_as_it_did(name, monkeypatch, tmp_path):
    """Needs libtpu, and minutes for the larger one; other versions of it may differ a little."""
    pytest.importorskip("libtpu")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))  # compiled, not remembered
    seconds = []
    now = plans.compiled(run(name), on_paper(name), seconds.append)
    assert seconds
    assert now.fits
    kept, found = golden(name)["compiled_bytes"], now.to_json()["compiled_bytes"]
    for field in COMPILED:
        assert found[field] == pytest.approx(kept[field], rel=0.05, abs=2**20), field
    # The second time it is remembered.
    again = plans.compiled(run(name), on_paper(name), lambda s: pytest.fail("compiled again"))
    assert again == now


def test_a_mesh_laid_out_for_a_slice_is_that_of_training():
    kept = golden("palix_55b_v4-512")
    assert mesh.shape(run("palix_55b_v4-512").mesh, kept["devices"]) == (1, 1, 128, 4)

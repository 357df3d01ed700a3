import dataclasses

from vla_jax.experiment.planning import plan as plans
from vla_jax.experiment.planning import search
from vla_jax.models import variants
from vla_jax.runtime.mesh import MeshConfig
from vla_jax.runtime.topology import Topology


def planned(config, topology, batch, **sizes):
    config = dataclasses.replace(
        config,
        model=variants.PALIGEMMA_3B,
        mesh=MeshConfig(**sizes),
        loader=dataclasses.replace(config.loader, batch_size=batch),
    )
    return config, plans.on_paper(config, 257_152, Topology.parse(topology))


def test_what_fits_is_found_near_by(config):
    # 3 x 12 GB of state on each chip of 16: the parameters have to be sliced.
    config, plan = planned(config, "v5e:4x4", 128, data=16)
    assert not plan.fits
    change = search.nearest_that_fits(plan, config)
    assert change.plan.fits
    assert change.plan.batch == 128
    assert change.plan.remat == "full"
    assert change.flags(plan).startswith("--mesh=")
    again = plans.on_paper(change.config, plan.vocabulary, plan.topology)
    assert again == change.plan


def test_a_batch_is_the_last_thing_to_be_changed(config):
    config, plan = planned(config, "h100:1", 512)
    assert not plan.fits
    change = search.nearest_that_fits(plan, config)
    assert change.flags(plan) == f"--batch={change.plan.batch}"
    assert change.plan.batch < 512


def test_nothing_helps_where_the_state_is_too_large(config):
    config, plan = planned(config, "v5e:2x2", 4, fsdp=4)
    doubled = dataclasses.replace(plan, needed=4 * plan.topology.chip.memory)
    assert search.nearest_that_fits(doubled, config) is None


def test_the_search_ends_with_the_fastest_that_fits(config):
    config, plan = planned(config, "h200:8", 256, data=8)
    found = list(search.search(plan, config, lambda seconds: None, exact=False))
    assert found[-1].plan.fits
    assert not any(candidate.plan.fits for candidate in found[:-1])
    best = found[-1].plan
    assert best.batch == 256
    for candidate in search.candidates(plan, config):
        if candidate.plan.fits and candidate.plan.batch == 256:
            assert best.seconds_per_example <= candidate.plan.seconds_per_example

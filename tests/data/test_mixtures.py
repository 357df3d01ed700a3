"""The named mixtures, against the datasets there are and the published table."""

import pytest

from vla_jax.data.mixtures import MIXTURES
from vla_jax.data.robots.table import ROBOTS


@pytest.mark.parametrize("name", MIXTURES)
def test_every_mixture_names_known_robots(name):
    assert MIXTURES[name]
    assert set(MIXTURES[name]) <= set(ROBOTS)
    assert all(weight > 0 for weight in MIXTURES[name].values())


@pytest.mark.parametrize("name", MIXTURES)
def test_every_dataset_of_a_mixture_has_the_primary_view(name):
    for dataset in MIXTURES[name]:
        assert "primary" in ROBOTS[dataset].images, dataset


@pytest.mark.parametrize(
    ("name", "datasets"),
    [
        ("rtx", 10),
        ("oxe_magic_soup", 23),
        ("oxe_magic_soup_plus_plus", 27),
        ("oxe_magic_soup_plus_plus_minus", 25),
        ("libero_all", 4),
    ],
)
def test_a_mixture_has_all_its_datasets(name, datasets):
    assert len(MIXTURES[name]) == datasets


def test_the_soups_differ_where_they_should():
    soup, plus = MIXTURES["oxe_magic_soup"], MIXTURES["oxe_magic_soup_plus_plus"]
    minus = MIXTURES["oxe_magic_soup_plus_plus_minus"]
    assert soup.items() <= plus.items()
    assert {name: plus[name] for name in set(plus) - set(soup)} == {
        "bc_z": 0.2,
        "fmb_dataset": 1.0,
        "dobbe": 0.2,
        "droid": 0.06,
    }
    assert set(plus) - set(minus) == {"language_table", "droid"}
    assert {name for name in minus if minus[name] != plus[name]} == {"fractal20220817_data"}
    assert minus["fractal20220817_data"] == 1.0


def test_the_rtx_mixture_weighs_as_published():
    rtx, soup = MIXTURES["rtx"], MIXTURES["oxe_magic_soup"]
    differing = {name: rtx[name] for name in rtx if rtx[name] != soup[name]}
    assert differing == {
        "jaco_play": 2.0,
        "berkeley_cable_routing": 3.0,
        "roboturk": 1.0,
        "berkeley_autolab_ur5": 1.0,
    }


def test_a_mixture_is_its_own(monkeypatch):
    # Changing one in place must not reach another that was derived from it.
    monkeypatch.setitem(MIXTURES["rtx"], "toto", 9.0)
    assert MIXTURES["oxe_magic_soup"]["toto"] == 1.0

"""Mixtures that the field trains on, by name: how much each dataset's size counts for.

A weight multiplies the number of frames of its dataset, so 1.0 throughout is a uniform draw over
all frames.

Sources: OpenVLA (prismatic/vla/datasets/rlds/oxe/mixtures.py) and Octo
(octo/data/oxe/oxe_dataset_mixes.py), which differ where said. Both take BridgeData from its own
site, `bridge_orig`, and not the copy of Open X-Embodiment; BC-Z has to be version 0.1.0.
"""

_RTX = {
    "fractal20220817_data": 0.54087122203,
    "kuka": 0.8341046294,
    "bridge_orig": 1.0,
    "taco_play": 2.0,
    "jaco_play": 2.0,
    "berkeley_cable_routing": 3.0,
    "roboturk": 1.0,
    "viola": 2.0,
    "berkeley_autolab_ur5": 1.0,
    "toto": 1.0,
}

_MAGIC_SOUP = {
    **_RTX,
    "jaco_play": 1.0,
    "berkeley_cable_routing": 1.0,
    "roboturk": 2.0,
    "berkeley_autolab_ur5": 2.0,
    "language_table": 0.1,
    "stanford_hydra_dataset_converted_externally_to_rlds": 2.0,
    "austin_buds_dataset_converted_externally_to_rlds": 1.0,
    "nyu_franka_play_dataset_converted_externally_to_rlds": 3.0,
    "furniture_bench_dataset_converted_externally_to_rlds": 0.1,
    "ucsd_kitchen_dataset_converted_externally_to_rlds": 2.0,
    "austin_sailor_dataset_converted_externally_to_rlds": 1.0,
    "austin_sirius_dataset_converted_externally_to_rlds": 1.0,
    "dlr_edan_shared_control_converted_externally_to_rlds": 1.0,
    "iamlab_cmu_pickup_insert_converted_externally_to_rlds": 1.0,
    "utaustin_mutex": 1.0,
    "berkeley_fanuc_manipulation": 2.0,
    "cmu_stretch": 1.0,
}

_MAGIC_SOUP_PLUS_PLUS = {
    **_MAGIC_SOUP,
    "bc_z": 0.2,
    "fmb_dataset": 1.0,
    "dobbe": 0.2,
    "droid": 0.06,
}


def _without(mixture: dict[str, float], *names: str) -> dict[str, float]:
    """A copy without some datasets, which must be in it."""
    rest = dict(mixture)
    for name in names:
        del rest[name]
    return rest


_LIBERO = {
    f"libero_{suite}": {f"libero_{suite}_no_noops": 1.0}
    for suite in ("spatial", "object", "goal", "10")
}

MIXTURES: dict[str, dict[str, float]] = {
    "tabletop": {"tabletop": 1.0},
    "bridge": {"bridge_orig": 1.0},
    "fractal": {"fractal20220817_data": 1.0},
    "bridge_rt_1": {"bridge_orig": 1.0, "fractal20220817_data": 1.0},
    "droid": {"droid": 1.0},
    "language_table": {"language_table": 1.0},
    "language_table_sim": {"language_table_sim": 1.0},
    "metaworld": {"metaworld": 1.0},
    **_LIBERO,
    "libero_all": {name: 1.0 for suite in _LIBERO.values() for name in suite},
    # Octo's adds nyu_door_opening_surprising_effectiveness at 5.0, which has only a wrist camera.
    "rtx": _RTX,
    # Octo's adds nyu_door_opening_surprising_effectiveness at 1.0 and bc_z at 0.2.
    "oxe_magic_soup": _MAGIC_SOUP,
    "oxe_magic_soup_plus_plus": _MAGIC_SOUP_PLUS_PLUS,
    # What OpenVLA's last phase trained on: without DROID, which was learnt slowly.
    "oxe_magic_soup_plus_plus_minus": {
        **_without(_MAGIC_SOUP_PLUS_PLUS, "language_table", "droid"),
        "fractal20220817_data": 1.0,
    },
}

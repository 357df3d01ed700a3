"""What the studies of the tabletop measure, by the names that their tables use."""

from collections.abc import Sequence

from vla_jax.envs.tabletop import world


def tabletop(kinds: Sequence[str]) -> dict[str, str | tuple[str, ...]]:
    """Returns measures of a run that was evaluated on all splits of the tabletop.

    Args:
      kinds: of the questions that are asked.

    Returns:
      `seen`; `unseen`, the mean of all other splits; `VQA`, the mean of the kinds; then every split
      and every kind alone. All are shares, 0..1.
    """
    unseen = world.SPLITS[1:]
    return {
        "seen": "success/seen",
        "unseen": tuple(f"success/{split}" for split in unseen),
        "VQA": tuple(f"vqa/{kind}" for kind in kinds),
        **{split: f"success/{split}" for split in unseen},
        **{f"VQA {kind}": f"vqa/{kind}" for kind in kinds},
    }

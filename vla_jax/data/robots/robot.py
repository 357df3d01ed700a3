"""What a robot dataset's adapter says: which feature is which field, what an action means."""

import dataclasses
from collections.abc import Mapping

from vla_jax.actions.spec import ActionSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Robot:
    """One robot dataset in RLDS form.

    Attributes:
      name: the name of the mixture source.
      images: view name -> image feature.
      action: action feature, float32 [a] in the units of `spec`.
      instruction: language feature, per step or per episode.
      spec: the action space.
    """

    name: str
    images: Mapping[str, str]
    action: str
    instruction: str
    spec: ActionSpec

"""Released checkpoints: `pretrained.load(PATH)`."""

from vla_jax.models.pretrained.model import Pretrained, load
from vla_jax.models.pretrained.source import Source

__all__ = ["Pretrained", "Source", "load"]

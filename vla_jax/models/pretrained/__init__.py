"""Released checkpoints: `pretrained.load(PATH)`."""

from vla_jax.models.pretrained.model import Pretrained, load
from vla_jax.models.pretrained.weights import PREFIXES, Parts, PretrainedConfig, Weights

__all__ = ["PREFIXES", "Parts", "Pretrained", "PretrainedConfig", "Weights", "load"]

"""Released checkpoints: `pretrained.load(PATH)`."""

from vla_jax.models.pretrained.model import Pretrained, load
from vla_jax.models.pretrained.weights import PretrainedConfig, Weights

__all__ = ["Pretrained", "PretrainedConfig", "Weights", "load"]

"""Next-token cross-entropy on the suffix, over the full vocabulary, and what to log of it.

RT-2 trains actions as ordinary text: the loss is not renormalised over action tokens.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from vla_jax.core.arrays import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """How token losses become one number.

    Attributes:
      normalize: `example` averages each example over its supervised tokens, then the batch, so
        that a short answer counts as much as a long action (big_vision:trainers/proj/paligemma);
        `token` averages over all supervised tokens of the batch.
    """

    normalize: Literal["example", "token"] = "example"


def suffix_loss(
    logits: Float[Array, "b n v"],
    targets: Int[Array, "b n"],
    mask: Bool[Array, "b n"],
    source: Int[Array, " b"],
    *,
    sources: int,
    config: LossConfig,
) -> tuple[Float[Array, ""], dict[str, Float[Array, " m"]]]:
    """Returns the loss and its parts per mixture source.

    Args:
      logits: float32, of every suffix slot.
      targets: token ids of the suffix slots.
      mask: True where a slot is supervised.
      source: mixture source of each example, 0..sources-1.
      sources: number of mixture sources m.
      config: the normalisation.

    Returns:
      The mean loss in nats, and sums per source [m] for exact averaging later: `loss` (of example
      means), `correct` and `tokens` (argmax hits and supervised tokens), `examples`.
    """
    # A where over an iota instead of a gather: the vocabulary may be sharded.
    hit = jnp.arange(logits.shape[-1])[None, None, :] == targets[..., None]
    target_logit = jnp.sum(jnp.where(hit, logits, 0), axis=-1)
    token_loss = jax.nn.logsumexp(logits, axis=-1) - target_logit
    weight = mask.astype(jnp.float32)
    tokens = jnp.sum(weight, axis=1)
    example_loss = jnp.sum(token_loss * weight, axis=1) / jnp.maximum(tokens, 1)
    if config.normalize == "example":
        loss = jnp.mean(example_loss)
    else:
        loss = jnp.sum(token_loss * weight) / jnp.maximum(jnp.sum(tokens), 1)
    correct = jnp.sum((jnp.argmax(logits, axis=-1) == targets) * weight, axis=1)
    member = (source[:, None] == jnp.arange(sources)[None, :]).astype(jnp.float32)
    parts = {"loss": example_loss, "correct": correct, "tokens": tokens}
    sums = {name: value @ member for name, value in parts.items()}
    return loss, sums | {"examples": jnp.sum(member, axis=0)}


def source_metrics(
    steps: Sequence[Mapping[str, Array]], names: tuple[str, ...]
) -> dict[str, float]:
    """Turns the sums of some steps into `loss/NAME` (nats) and `accuracy/NAME` (0..1).

    A source without an example in these steps is left out.
    """
    sums = {name: np.sum([step[name] for step in steps], axis=0) for name in steps[0]}
    out: dict[str, float] = {}
    for i, name in enumerate(names):
        if sums["examples"][i]:
            out[f"loss/{name}"] = float(sums["loss"][i] / sums["examples"][i])
            out[f"accuracy/{name}"] = float(sums["correct"][i] / sums["tokens"][i])
    return out


def source_shares(steps: Sequence[Mapping[str, Array]], names: tuple[str, ...]) -> dict[str, float]:
    """Turns the sums of some steps into `share/NAME`, the realised mixture, 0..1."""
    examples = np.sum([step["examples"] for step in steps], axis=0)
    return {f"share/{n}": float(x) for n, x in zip(names, examples / examples.sum(), strict=True)}

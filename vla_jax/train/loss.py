"""Next-token cross-entropy on the suffix, over the full vocabulary, and what to log of it.

RT-2 trains actions as ordinary text: the loss is not renormalised over action tokens.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import einops
import jax
import jax.numpy as jnp
import numpy as np

from vla_jax.core.arrays import Array, Bool, Float, Int
from vla_jax.core.fields import Checked, NotNegative, Size


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig(Checked):
    """How token losses become one number.

    Attributes:
      normalize: `example` averages each example over its supervised tokens, then the batch, so
        that a short answer counts as much as a long action (big_vision:trainers/proj/paligemma);
        `token` averages over all supervised tokens of the batch.
      z_loss: factor on log(Z)^2 of every token, which keeps logits from drifting (PaLM, section 5:
        1e-4); it is trained on, and not part of the losses per source.
      chunk_megabytes: largest float32 logits that a device holds at once; longer suffixes are
        taken in chunks, whose logits are computed again in the backward pass.

    Raises:
      UserError: a value is out of range.
    """

    normalize: Literal["example", "token"] = "example"
    z_loss: NotNegative = 0.0
    chunk_megabytes: Size = 512


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenLosses:
    """What the model makes of every suffix slot, supervised or not.

    Attributes:
      nll: float32 [b, n], negative log-likelihood of the target, nats.
      log_z: float32 [b, n], log of the partition function.
      predicted: int32 [b, n], the likeliest token.
    """

    nll: Float[Array, "b n"]
    log_z: Float[Array, "b n"]
    predicted: Int[Array, "b n"]


def token_losses(
    head: Callable[[Array], Array],
    hidden: Float[Array, "b n d"],
    targets: Int[Array, "b n"],
    chunks: int = 1,
) -> TokenLosses:
    """Returns the losses of all slots.

    Args:
      head: hidden states [b, m, d] -> float32 logits [b, m, v].
      hidden: states of the suffix slots.
      targets: token ids.
      chunks: parts into which the slots are cut, one after the other.
    """
    if chunks == 1:
        return _token_losses(head(hidden), targets)
    slots = hidden.shape[1]
    size = -(-slots // chunks)
    missing = chunks * size - slots
    hidden = jnp.pad(hidden, [(0, 0), (0, missing), (0, 0)])
    targets = jnp.pad(targets, [(0, 0), (0, missing)])
    parts = jax.lax.map(
        jax.checkpoint(lambda part: _token_losses(head(part[0]), part[1])),
        (
            einops.rearrange(hidden, "b (c n) d -> c b n d", c=chunks),
            einops.rearrange(targets, "b (c n) -> c b n", c=chunks),
        ),
    )
    return jax.tree.map(lambda x: einops.rearrange(x, "c b n -> b (c n)")[:, :slots], parts)


def chunks(logits: int, slots: int, shards: int, config: LossConfig) -> int:
    """Returns into how many chunks so many float32 logits of n slots on some devices are cut."""
    most = config.chunk_megabytes * 2**20 * shards
    return min(max(-(-4 * logits // most), 1), slots)


def weights(mask: Bool[Array, "b n"], config: LossConfig) -> Float[Array, " b"]:
    """Returns what one nat in each example counts in the loss of the batch."""
    tokens = jnp.sum(mask, axis=1, dtype=jnp.float32)
    if config.normalize == "example":
        return 1 / (mask.shape[0] * jnp.maximum(tokens, 1))
    return jnp.full(mask.shape[:1], 1 / jnp.maximum(jnp.sum(tokens), 1))


def suffix_loss(
    losses: TokenLosses,
    mask: Bool[Array, "b n"],
    weight: Float[Array, " b"],
    config: LossConfig,
) -> tuple[Float[Array, ""], Float[Array, " b"]]:
    """Reduces token losses.

    Args:
      losses: of every suffix slot.
      mask: True where a slot is supervised.
      weight: from `weights`, perhaps of a larger batch that these examples are part of.
      config: the normalisation.

    Returns:
      The loss, and each example's mean over its supervised tokens, in nats.
    """
    nll = jnp.sum(jnp.where(mask, losses.nll, 0), axis=1)
    total = nll
    if config.z_loss:
        total = nll + config.z_loss * jnp.sum(jnp.where(mask, losses.log_z**2, 0), axis=1)
    tokens = jnp.sum(mask, axis=1, dtype=jnp.float32)
    return jnp.sum(total * weight), nll / jnp.maximum(tokens, 1)


def source_sums(
    losses: TokenLosses,
    example_loss: Float[Array, " b"],
    targets: Int[Array, "b n"],
    mask: Bool[Array, "b n"],
    source: Int[Array, " b"],
    sources: int,
) -> dict[str, Float[Array, " m"]]:
    """Returns sums per mixture source, for exact averaging later.

    Args:
      losses: of every suffix slot.
      example_loss: from `suffix_loss`.
      targets: token ids.
      mask: True where a slot is supervised.
      source: mixture source of each example, 0..sources-1.
      sources: number of mixture sources m.

    Returns:
      `loss` (of example means), `correct` and `tokens` (argmax hits and supervised tokens),
      `examples`, each [m].
    """
    weight = mask.astype(jnp.float32)
    parts = {
        "loss": example_loss,
        "correct": jnp.sum((losses.predicted == targets) * weight, axis=1),
        "tokens": jnp.sum(weight, axis=1),
    }
    return by_source(parts | {"examples": jnp.ones(source.shape)}, source, sources)


def by_source(
    parts: Mapping[str, Float[Array, " b"]], source: Int[Array, " b"], sources: int
) -> dict[str, Float[Array, " m"]]:
    """Returns values of examples summed per mixture source, float32."""
    member = (source[:, None] == jnp.arange(sources)[None, :]).astype(jnp.float32)
    return {name: value.astype(jnp.float32) @ member for name, value in parts.items()}


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


def _token_losses(logits: Float[Array, "b n v"], targets: Int[Array, "b n"]) -> TokenLosses:
    # A where over an iota instead of a gather: the vocabulary may be sharded.
    hit = jnp.arange(logits.shape[-1])[None, None, :] == targets[..., None]
    target = jnp.sum(jnp.where(hit, logits, 0), axis=-1)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    predicted = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return TokenLosses(nll=log_z - target, log_z=log_z, predicted=predicted)

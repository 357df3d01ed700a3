r"""Prompt and target -> the static layout `[prefix slots | suffix slots]` of a Batch.

`<bos> prompt "\n"` fills the prefix slots from the right, `target <eos>` the suffix slots from the
left; the model puts the images in front. Because the last prefix token always stands in the last
prefix slot, the loss is a slice and never a gather.
"""

import dataclasses

import numpy as np

from vla_jax.core.arrays import Bool, Int
from vla_jax.core.errors import UserError
from vla_jax.tokens.tokenizer import BOS, EOS, PAD, Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """Room for text.

    Attributes:
      prefix: prefix slots, `<bos>` and the newline included.
      suffix: suffix slots, `<eos>` included.
    """

    prefix: int = 48
    suffix: int = 16

    def __post_init__(self) -> None:
        if self.prefix < 3 or self.suffix < 2:
            raise UserError(
                "config.sequence",
                expected="prefix >= 3 and suffix >= 2",
                found=f"prefix {self.prefix}, suffix {self.suffix}",
            )


def prefix_tokens(
    prompt: str, tokenizer: Tokenizer, config: SequenceConfig
) -> tuple[Int[np.ndarray, " t"], int]:
    """Lays out a prompt.

    Returns:
      int32 [prefix], left-padded, and the number of valid tokens at its right end.

    Raises:
      UserError: the prompt needs more slots than there are.
    """
    ids = [BOS, *tokenizer.encode(prompt), tokenizer.newline]
    if len(ids) > config.prefix:
        raise UserError(
            f"prompt {prompt!r} is too long",
            expected=f"at most {config.prefix} tokens (config.sequence.prefix)",
            found=f"{len(ids)} tokens",
            fix="Shorten the text, or train with a larger config.sequence.prefix",
        )
    row = np.full(config.prefix, PAD, np.int32)
    row[config.prefix - len(ids) :] = ids
    return row, len(ids)


def suffix_tokens(
    ids: Int[np.ndarray, "n w"], config: SequenceConfig, name: str
) -> tuple[Int[np.ndarray, "n t"], Bool[np.ndarray, "n t"]]:
    """Lays out targets of equal length: `ids` and `<eos>`, padded on the right.

    Args:
      ids: token ids of answers or actions.
      config: the slots.
      name: what the first target is, for the error.

    Returns:
      int32 [n, suffix] and their loss masks, bool [n, suffix].

    Raises:
      UserError: a target needs more slots than there are.
    """
    length = ids.shape[1]
    if length + 1 > config.suffix:
        raise UserError(
            f"{name} is too long",
            expected=f"at most {config.suffix} tokens with <eos> (config.sequence.suffix)",
            found=f"{length + 1} tokens",
            fix="Raise config.sequence.suffix",
        )
    rows = np.full((len(ids), config.suffix), PAD, np.int32)
    rows[:, :length], rows[:, length] = ids, EOS
    mask = np.zeros(rows.shape, bool)
    mask[:, : length + 1] = True
    return rows, mask

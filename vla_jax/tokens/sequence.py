r"""Prompt and target -> the static layout `[prefix slots | suffix slots]` of a Batch.

`<bos> prompt separator` fills the prefix slots from the right, `target <eos>` the suffix slots from
the left; the model puts the images in front, or in place of the marker `<image>` of a multimodal
sentence (PaLM-E, section 3), which is as many slots as there are image tokens. Because the last
prefix token always stands in the last prefix slot, the loss is a slice and never a gather.
"""

import dataclasses
import re
from typing import Annotated

import numpy as np

from vla_jax.core.arrays import Bool, Int
from vla_jax.core.batch import IMAGE_TOKEN, STATE_TOKEN
from vla_jax.core.errors import UserError
from vla_jax.core.fields import Checked, Range
from vla_jax.tokens.tokenizer import Tokenizer

_MARKER = re.compile("(<image>|<state>)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceConfig(Checked):
    """Room for text.

    Attributes:
      prefix: prefix slots, `<bos>` and the newline included.
      suffix: suffix slots, `<eos>` included.
      plan: most tokens of a plan (`prompts.plan`), which takes suffix slots.
    """

    prefix: Annotated[int, Range(3, 2**16)] = 48
    suffix: Annotated[int, Range(2, 2**16)] = 16
    plan: Annotated[int, Range(1, 2**16)] = 12


def prefix_tokens(
    prompt: str, tokenizer: Tokenizer, config: SequenceConfig, image_tokens: int = 0
) -> tuple[Int[np.ndarray, " t"], int]:
    """Lays out a prompt.

    Args:
      prompt: the text.
      tokenizer: text to ids.
      config: the slots.
      image_tokens: slots for the images of an example where these stand in the prompt, at its
        marker `<image>`; its marker `<state>` is one slot. 0 takes markers for text.

    Returns:
      int32 [prefix], left-padded, and the number of valid tokens at its right end.

    Raises:
      UserError: the prompt needs more slots than there are.
    """
    special = tokenizer.special
    ids = [special.bos, *_sentence(prompt, tokenizer, image_tokens), special.separator]
    if len(ids) > config.prefix:
        raise UserError(
            f"prompt {prompt!r} is too long",
            expected=f"at most {config.prefix} tokens (config.sequence.prefix)",
            found=f"{len(ids)} tokens",
            fix="Shorten the text, or train with a larger config.sequence.prefix",
        )
    row = np.full(config.prefix, special.pad, np.int32)
    row[config.prefix - len(ids) :] = ids
    return row, len(ids)


def _sentence(prompt: str, tokenizer: Tokenizer, image_tokens: int) -> list[int]:
    if not image_tokens:
        return tokenizer.encode(prompt)
    placeholders = {"<image>": [IMAGE_TOKEN] * image_tokens, "<state>": [STATE_TOKEN]}
    parts = [part.strip() for part in _MARKER.split(prompt)]
    return [
        token
        for part in parts
        if part
        for token in placeholders.get(part) or tokenizer.encode(part)
    ]


def suffix_tokens(
    ids: Int[np.ndarray, "n w"], tokenizer: Tokenizer, config: SequenceConfig, name: str
) -> tuple[Int[np.ndarray, "n t"], Bool[np.ndarray, "n t"]]:
    """Lays out targets of equal length: `ids` and `<eos>`, padded on the right.

    Args:
      ids: token ids of answers or actions.
      tokenizer: knows the end and the padding.
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
    rows = np.full((len(ids), config.suffix), tokenizer.special.pad, np.int32)
    rows[:, :length], rows[:, length] = ids, tokenizer.special.eos
    mask = np.zeros(rows.shape, bool)
    mask[:, : length + 1] = True
    return rows, mask

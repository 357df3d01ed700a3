r"""Prompt and target -> the static layout `[prefix slots | suffix slots]` of a Batch.

`<bos> prompt separator` fills the prefix slots from the right, `target <eos>` the suffix slots from
the left; the model puts the images in front, or in place of the marker `<image>` of a multimodal
sentence (PaLM-E, section 3), which is as many slots as there are image tokens. Because the last
prefix token always stands in the last prefix slot, the loss is a slice and never a gather.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import numpy as np

from vla_jax.core.arrays import Bool, Int
from vla_jax.core.batch import IMAGE_TOKEN
from vla_jax.core.errors import TextError, UserError
from vla_jax.core.fields import Checked, Range
from vla_jax.tokens.tokenizer import Tokenizer

_SHOWN = 100  # characters of a text that a message shows


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
    prompt: str | Sequence[str | int],
    tokenizer: Tokenizer,
    config: SequenceConfig,
    image_tokens: int = 0,
    *,
    places: bool = False,
) -> tuple[Int[np.ndarray, " t"], int]:
    """Lays out a prompt.

    Args:
      prompt: the text; or its parts with IMAGE_TOKEN where images stand in it, and STATE_TOKEN,
        which is one slot.
      tokenizer: text to ids.
      config: the slots.
      image_tokens: slots for the images of an example.
      places: as in `Tokenizer.encode`.

    Returns:
      int32 [prefix], left-padded, and the number of valid tokens at its right end.

    Raises:
      UserError: the prompt needs more slots than there are.
    """
    special = tokenizer.special
    if isinstance(prompt, str):
        text, words = prompt, tokenizer.encode(prompt, places=places)
    else:
        text = "".join(part for part in prompt if isinstance(part, str))
        words = _sentence(prompt, tokenizer, image_tokens, places)
    ids = [special.bos, *words, special.separator]
    if len(ids) > config.prefix:
        raise TextError(
            f"prompt {shown(text)} is too long",
            expected=f"at most {config.prefix} tokens (config.sequence.prefix)",
            found=f"{len(ids)} tokens",
            fix=f"Shorten the text, or train with --config.sequence.prefix={len(ids)}",
        ).of(text, len(ids))
    row = np.full(config.prefix, special.pad, np.int32)
    row[config.prefix - len(ids) :] = ids
    return row, len(ids)


def shown(text: str) -> str:
    """Returns a text as messages show it: quoted, and cut where it is long."""
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}...")


def _sentence(
    parts: Sequence[str | int], tokenizer: Tokenizer, image_tokens: int, places: bool
) -> list[int]:
    out: list[int] = []
    for part in parts:
        if isinstance(part, str):
            out += tokenizer.encode(said, places=places) if (said := part.strip()) else []
        else:
            out += [part] * (image_tokens if part == IMAGE_TOKEN else 1)
    return out


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

"""How many token ids a run will have, found without opening its data."""

import pathlib

from vla_jax.core.errors import UserError
from vla_jax.experiment import pretraining, warm_start
from vla_jax.experiment.config import RunConfig
from vla_jax.models import variants
from vla_jax.tokens import action_tokens
from vla_jax.tokens.tokenizer import Tokenizer


def find(config: RunConfig) -> tuple[int, str]:
    """Returns the number of token ids and where it is from.

    It is that of the tokenizer and the checkpoint if they are here; as published for the named
    model, if they are not; the most that training a tokenizer may reach, if the run does that.

    Raises:
      UserError: the tokenizer is not here and the model has no published number.
    """
    path = config.tokenizer.path
    tokens = config.action_tokens
    is_fast = tokens.scheme == "fast"
    count = tokens.fast.size if is_fast else config.bins.largest
    is_new = tokens.fast.rows == "new" if is_fast else tokens.scheme == "extend"
    added = count if is_new else 0
    if path is None:
        size = config.tokenizer.size + 1 + config.tokenizer.locations
        return size + added, "at most, trained on the run's own texts"
    if pathlib.Path(path).is_file():
        tokenizer, _ = action_tokens.choose_ids(tokens, Tokenizer.load(path), count)
        weights = warm_start.open_weights(config)
        return max(tokenizer.size, pretraining.vocabulary(weights, config)), path
    published = variants.vocabulary(config.model)
    if published is None:
        raise UserError(
            f"config.tokenizer.path {path}",
            expected="a tokenizer.json, or a named model whose vocabulary is published",
            found="neither",
            fix="Say how many token ids there are: --vocabulary=N",
        )
    return published + added, f"as published, {path} is not here"

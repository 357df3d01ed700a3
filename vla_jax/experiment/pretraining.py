"""The released checkpoint that a run starts from, and what it asks of the tokenizer."""

from collections.abc import Mapping
from typing import Protocol

import jax

from vla_jax.core.errors import UserError
from vla_jax.experiment.config import RunConfig
from vla_jax.models.pretrained import Parts, Weights
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.tokens.tokenizer import Tokenizer

# Released embeddings have a few rows more than their tokenizers have ids: rounded up, and places
# for tokens of images. Much fewer ids are those of another tokenizer.
_UNUSED, _ROUNDED = 0.05, 64


def open_weights(config: RunConfig) -> Weights | None:
    """Opens the checkpoint and compares all of it with the model; reads no tensor.

    Returns:
      The checkpoint, None for a run that starts from nothing.

    Raises:
      UserError: it is damaged, or another model.
    """
    settings = config.pretrained
    if settings.path is None:
        return None
    weights = Weights(settings.path, config.model)
    weights.check(config.model, settings.parts, "config.model")
    weights.require(config.model, settings.parts)
    return weights


class Start(Protocol):
    """What a run starts from: released `Weights`, or those of another run."""

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""
        ...

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of these rows; None where it has to be given."""
        ...

    @property
    def kept_rows(self) -> int:
        """Rows of the embedding that were trained on this run's kind of text, action bins too."""
        ...

    def read(
        self, config: VLMConfig, abstract: Mapping[str, jax.ShapeDtypeStruct], parts: Parts
    ) -> dict[str, jax.Array]:
        """Reads some parts of a model, each where `abstract` says, by name."""
        ...


def vocabulary(weights: Start | None, config: RunConfig) -> int:
    """Returns the rows of embedding that the checkpoint brings; 0 if none are taken from it."""
    if weights is None or config.pretrained.parts == "vision":
        return 0
    return weights.vocabulary


def check_tokenizer(weights: Start | None, config: RunConfig, tokenizer: Tokenizer) -> None:
    """Refuses a tokenizer that is not that of the checkpoint's embedding.

    Args:
      weights: the checkpoint.
      config: the run.
      tokenizer: as it was loaded, before it is extended.

    Raises:
      UserError: it was trained for this run, or has not as many ids.
    """
    rows = vocabulary(weights, config)
    if not rows:
        return
    fits = 0 <= rows - tokenizer.size <= max(_UNUSED * rows, _ROUNDED)
    is_trained = config.tokenizer.path is None and (weights is None or weights.tokenizer is None)
    if is_trained or not fits:
        trained = ", trained on this run's texts" if is_trained else ""
        raise UserError(
            "config.tokenizer.path: not the tokenizer of the pretrained embedding",
            expected=f"at most {rows} ids and not many fewer",
            found=f"{tokenizer.size} ids{trained}",
            fix="Take the tokenizer.json of the checkpoint",
        )

"""The adapters of a LoRA run as a folder of their own, for huggingface/peft."""

import pathlib

import jax

from vla_jax.core.errors import UserError
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.load import Run
from vla_jax.models.pretrained import huggingface, peft
from vla_jax.policy.export.format import Rule, refuse_unless

_FORMAT = "hf_paligemma"  # whose modules have names that peft finds


def check(config: RunConfig, form: str) -> None:
    """Refuses a run whose adapters do not fit the model that it started from.

    Args:
      config: the run.
      form: the format of the export.

    Raises:
      UserError: it is no LoRA run, the format is another, or the base was changed beside them.
    """
    if form != _FORMAT:
        raise UserError("--peft", expected=f"--format={_FORMAT}", found=f"--format={form}")
    tokens, begin = config.action_tokens, config.pretrained
    rules = (
        Rule("config.strategy.kind", config.strategy.kind, config.strategy.kind == "lora", "lora"),
        Rule("config.pretrained.path", begin.path, begin.path is not None, "a released model"),
        Rule("config.pretrained.parts", begin.parts, begin.parts == "all", "all"),
        # New rows of the embedding would be missing in the base.
        Rule(
            "config.action_tokens.initialization",
            tokens.initialization,
            tokens.initialization == "none" and tokens.scheme not in ("extend", "fast"),
            "none, and no scheme=extend or fast",
        ),
    )
    refuse_unless(f"{form} --peft", rules)


def write(folder: pathlib.Path, run: Run) -> None:
    """Writes the adapters of a run that `check` let pass.

    Raises:
      UserError: an adapted parameter has no module in the base.
    """
    lora = run.model.strategy.lora
    assert lora is not None
    peft.save(
        folder,
        lora,
        jax.device_get(run.trained),
        run.model.abstract_params(),
        huggingface.paligemma(run.config.model),
        base=str(run.config.pretrained.path),
    )

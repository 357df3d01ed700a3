"""Format `openvla`: a folder that OpenVLA's own Hugging Face classes load.

Source: openvla:prismatic/extern/hf/. Their modelling files are copied from a path that the user
gives; they are not part of this package. The classes were written for transformers 4.40.
"""

import dataclasses
import json
import pathlib
import shutil
from typing import Any

from vla_jax.core import trees
from vla_jax.core.errors import UserError
from vla_jax.models import dinov2, siglip
from vla_jax.models.pretrained import openvla, table
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.policy.export import openvla_config, tensors, weights
from vla_jax.policy.export.format import ALWAYS, Format, Options, Rule, Wanted, equal, refuse_unless
from vla_jax.policy.policy import Policy
from vla_jax.tokens.action_tokens import ActionTokens

CODE = ("configuration_prismatic.py", "modeling_prismatic.py", "processing_prismatic.py")
_SEPARATOR = 29871  # what `predict_action` puts behind every prompt
# timm's name of a tower, and of those that differ in resolution alone.
_TIMM = {
    dinov2.OPENVLA_L_14_REG4: "vit_large_patch14_reg4_dinov2.lvd142m",
    siglip.OPENVLA_SO400M_14: "vit_so400m_patch14_siglip_224",
}


def check(wanted: Wanted) -> None:
    """Refuses a policy that is no OpenVLA.

    Raises:
      UserError: names the field and what can be expressed.
    """
    refuse_unless("openvla", _string_rules(wanted))
    refuse_unless("openvla", (*_model_rules(wanted.config), *_token_rules(wanted)))
    _timm_models(wanted.config, wanted.options)
    _code(wanted.options)


def _string_rules(wanted: Wanted) -> list[Rule]:
    encoder, tokens = wanted.encoder, wanted.encoder.actions[wanted.robot]
    is_binned, says = isinstance(tokens, ActionTokens), encoder.prompts.plan
    return [
        Rule("config.action_tokens.scheme", "fast", is_binned, "one token for each number"),
        Rule("config.prompts.plan", says, encoder.plan_frame is None, "none"),
    ]


def _token_rules(wanted: Wanted) -> list[Rule]:
    encoder = wanted.encoder
    actions, base = encoder.actions[wanted.robot], encoder.tokenizer.base_size
    assert isinstance(actions, ActionTokens)  # by `_string_rules`
    rows, separator = base + openvla_config.PADDING, encoder.tokenizer.special.separator
    others = [k for k, token in enumerate(actions.ids) if token != base - 1 - k]
    return [
        Rule("config.loader: images of an example", wanted.images, wanted.images == 1, "1"),
        Rule("config.loader.chunk", encoder.chunk, encoder.chunk == 1, "1"),
        *equal("config.prompts", encoder.prompts, {"robot": "openvla"}),
        *equal("config.bins", actions.cut, {"convention": "openvla"}),
        *equal("config.bins", actions.cut, {"counts": (actions.count,) * actions.spec.size}),
        Rule(
            "action token ids",
            f"{actions.ids[others[0]]} for bin {others[0]}" if others else "",
            not others,
            f"{base} - 1 - bin (config.action_tokens.rows=openvla)",
        ),
        Rule(
            "action space",
            "discrete dimensions",
            not any(actions.spec.discrete),
            "ranges alone: OpenVLA has no terminate",
        ),
        Rule(
            "rows of the embedding",
            encoder.vocabulary,
            encoder.vocabulary <= rows,
            f"at most {rows}",
        ),
        Rule(
            "tokenizer: id of the lone space",
            separator,
            separator == _SEPARATOR,
            f"{_SEPARATOR}, Llama 2's",
        ),
    ]


def _model_rules(config: VLMConfig) -> list[Rule]:
    decoder = config.decoder
    usual = {
        "images": "after_bos",
        "attention": "causal",
        "state": 0,
        "shuffle": 1,
        "projector": "mlp2" if config.fused_vision is None else "mlp3",
    }
    llama = {
        "activation": "silu",
        "norm_offset": 0.0,
        "post_norms": False,
        "embedding_scale": False,
        "tied": False,
        "query_scale": None,
        "attention_softcap": None,
        "final_softcap": None,
        "head_dim": decoder.width // decoder.heads,
    }
    tower = {
        "activation": "gelu_exact",
        "positions": "learned",
        "stem_strides": (),
        "features": "penultimate",
    }
    fused = config.fused_vision
    return [
        *equal("config.model", config, usual),
        *equal("config.model.decoder", decoder, llama),
        *equal("config.model.vision", config.vision, tower),
        *(equal("config.model.fused_vision", fused, tower) if fused is not None else ()),
    ]


def _timm_models(config: VLMConfig, options: Options) -> list[str]:
    """Returns timm's names of the towers: OpenVLA's own, or those that the user gives."""
    towers = openvla_config.towers(config)
    if options.timm_models:
        if len(options.timm_models) != len(towers):
            raise UserError(
                "--timm-models", expected=f"{len(towers)} names", found=len(options.timm_models)
            )
        return list(options.timm_models)
    names = []
    for tower in towers:
        usual = dataclasses.replace(tower, image_size=224) if tower.patch_size == 14 else tower
        if usual not in _TIMM:
            raise UserError(
                "--format=openvla: a vision tower that is none of OpenVLA's",
                expected=" or ".join(_TIMM.values()),
                found=f"width {tower.width}, depth {tower.depth}",
                fix="Say what timm calls it with --timm-models=NAME,NAME",
            )
        names.append(_TIMM[usual])
    return names


def _code(options: Options) -> pathlib.Path:
    """Returns the directory with OpenVLA's modelling files."""
    place = options.openvla_code
    missing = CODE if place is None else [name for name in CODE if not (place / name).is_file()]
    if place is None or missing:
        raise UserError(
            "--openvla-code",
            expected=f"a directory with {', '.join(CODE)}",
            found="none" if place is None else f"{place} without {', '.join(missing)}",
            fix="Give prismatic/extern/hf of a checkout of github.com/openvla/openvla",
        )
    return place


def _write(folder: pathlib.Path, policy: Policy, config: VLMConfig, options: Options) -> None:
    tokenizer = policy.encoder.tokenizer
    rows = tokenizer.base_size + openvla_config.PADDING
    leaves = trees.named_leaves(policy.params)
    padded = {"decoder/embedding": rows, "decoder/head": rows}
    shapes = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
    entries = table.entries(openvla.openvla(config), shapes)
    weights.save(
        folder, tensors.packed(entries, leaves, padded), options.dtype, options.shard_bytes
    )
    tokenizer.save(folder / "tokenizer.json")
    for name in CODE:
        shutil.copyfile(_code(options) / name, folder / name)
    statistics = {policy.robot: norm_stats(policy)}
    config_json = {
        **openvla_config.config(config, tokenizer.special, rows),
        "timm_model_ids": _timm_models(config, options),
        "n_action_bins": len(policy.action_tokens.ids),
        "norm_stats": statistics,
        "torch_dtype": options.dtype,
    }
    named = {
        "config.json": config_json,
        "dataset_statistics.json": statistics,
        **openvla_config.beside(config, tokenizer.special),
    }
    for name, values in named.items():
        (folder / name).write_text(json.dumps(values, indent=2) + "\n")


def norm_stats(policy: Policy) -> dict[str, Any]:
    """Returns the statistics as OpenVLA reads them; what it leaves in [-1, 1] is masked out."""
    statistics, spec = policy.action_tokens.statistics, policy.action_tokens.spec
    values = statistics.to_json()
    names = {"q01": "q01", "q99": "q99", "mean": "mean", "std": "std", "min": "low", "max": "high"}
    action = {theirs: list(values[ours]) for theirs, ours in names.items()}
    action["mask"] = [unit != "0..1" for unit in spec.units]
    return {"action": action, "num_transitions": statistics.count, "num_trajectories": 0}


FORMAT = Format(
    name="openvla",
    programs=("torch_policy.py", "torch_hf.py", *ALWAYS),
    packages={
        "torch": ">=2.2",
        "safetensors": ">=0.4",
        "transformers": ">=4.40,<4.41",
        "timm": ">=0.9.10,<0.10",
    },
    check=check,
    write=_write,
)

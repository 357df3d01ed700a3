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
from vla_jax.models.vit import ViTConfig
from vla_jax.models.vlm import VLMConfig
from vla_jax.policy.export import tensors, weights
from vla_jax.policy.export.format import Format, Options, Rule, Wanted, refuse_unless
from vla_jax.policy.policy import Policy
from vla_jax.tokens.tokenizer import Special

CODE = ("configuration_prismatic.py", "modeling_prismatic.py", "processing_prismatic.py")
_SEPARATOR = 29871  # what `predict_action` puts behind every prompt
_PADDING = 64  # rows of the embedding behind those of the vocabulary
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
    config, encoder = wanted.config, wanted.encoder
    actions = encoder.actions[wanted.robot]
    base = encoder.tokenizer.base_size
    others = [k for k, token in enumerate(actions.ids) if token != base - 1 - k]
    separator = encoder.tokenizer.special.separator
    refuse_unless(
        "openvla",
        (
            *_model_rules(config),
            Rule("config.loader: images of an example", wanted.images, wanted.images == 1, "1"),
            Rule("config.loader.chunk", encoder.chunk, encoder.chunk == 1, "1"),
            Rule(
                "config.prompts.robot",
                encoder.prompts.robot,
                encoder.prompts.robot == "openvla",
                "openvla",
            ),
            Rule(
                "config.bins.convention",
                actions.convention,
                actions.convention == "openvla",
                "openvla",
            ),
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
                encoder.vocabulary <= base + _PADDING,
                f"at most {base + _PADDING}",
            ),
            Rule(
                "tokenizer: id of the lone space",
                separator,
                separator == _SEPARATOR,
                f"{_SEPARATOR}, Llama 2's",
            ),
        ),
    )
    _timm_models(config, wanted.options)
    _code(wanted.options)


def _model_rules(config: VLMConfig) -> list[Rule]:
    decoder = config.decoder
    projector = "mlp2" if config.fused_vision is None else "mlp3"
    rules = [
        Rule("config.model.images", config.images, config.images == "after_bos", "after_bos"),
        Rule("config.model.attention", config.attention, config.attention == "causal", "causal"),
        Rule("config.model.state", config.state, not config.state, "0"),
        Rule("config.model.shuffle", config.shuffle, config.shuffle == 1, "1"),
        Rule("config.model.projector", config.projector, config.projector == projector, projector),
    ]
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
    parts = {"decoder": (decoder, llama), "vision": (config.vision, tower)}
    if config.fused_vision is not None:
        parts["fused_vision"] = (config.fused_vision, tower)
    for part, (values, usual) in parts.items():
        for field, expected in usual.items():
            found = getattr(values, field)
            rules.append(Rule(f"config.model.{part}.{field}", found, found == expected, expected))
    return rules


def _towers(config: VLMConfig) -> list[ViTConfig]:
    return [tower for tower in (config.vision, config.fused_vision) if tower is not None]


def _timm_models(config: VLMConfig, options: Options) -> list[str]:
    """Returns timm's names of the towers: OpenVLA's own, or those that the user gives."""
    towers = _towers(config)
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
    rows = tokenizer.base_size + _PADDING
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
    bins = policy.action_tokens.count
    named = files(config, tokenizer.special, rows, bins, options, statistics)
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


def files(
    config: VLMConfig,
    special: Special,
    rows: int,
    bins: int,
    options: Options,
    statistics: dict[str, Any],
) -> dict[str, dict[str, Any]]:
    """Returns the JSON files by name.

    Args:
      config: sizes.
      special: ids of the special tokens.
      rows: of the embedding.
      bins: of an action dimension.
      options: dtype, names of the towers.
      statistics: robot -> `norm_stats`.
    """
    towers, fused = _towers(config), config.fused_vision is not None
    ids = {"bos_token_id": special.bos, "eos_token_id": special.eos, "pad_token_id": special.pad}
    size = config.vision.image_size
    modelling, processing = "modeling_prismatic", "processing_prismatic"
    return {
        "config.json": {
            "architectures": ["OpenVLAForActionPrediction"],
            "auto_map": {
                "AutoConfig": "configuration_prismatic.OpenVLAConfig",
                "AutoModelForVision2Seq": f"{modelling}.OpenVLAForActionPrediction",
            },
            "model_type": "openvla",
            "arch_specifier": "no-align+fused-gelu-mlp" if fused else "no-align+gelu-mlp",
            "vision_backbone_id": "dinosiglip-vit-so-224px" if fused else "siglip-vit-so400m",
            "use_fused_vision_backbone": fused,
            "timm_model_ids": _timm_models(config, options),
            "timm_override_act_layers": [None] * len(towers),
            "image_sizes": [size] * len(towers),
            "image_resize_strategy": "resize-naive",
            "llm_backbone_id": "llama2-7b-pure",
            "hf_llm_id": "meta-llama/Llama-2-7b-hf",
            "llm_max_length": 2048,
            "pad_to_multiple_of": _PADDING,
            "pad_token_id": special.pad,
            "n_action_bins": bins,
            "norm_stats": statistics,
            "output_projector_states": False,
            "text_config": _text(config, special, rows),
            "torch_dtype": options.dtype,
            "transformers_version": "4.40.1",
        },
        "generation_config.json": ids | {"transformers_version": "4.40.1"},
        "dataset_statistics.json": statistics,
        "preprocessor_config.json": {
            "auto_map": {
                "AutoImageProcessor": f"{processing}.PrismaticImageProcessor",
                "AutoProcessor": f"{processing}.PrismaticProcessor",
            },
            "image_processor_type": "PrismaticImageProcessor",
            "processor_class": "PrismaticProcessor",
            "use_fused_vision_backbone": fused,
            "image_resize_strategy": "resize-naive",
            "input_sizes": [[3, size, size]] * len(towers),
            "interpolations": ["bicubic"] * len(towers),
            "means": [list(tower.mean) for tower in towers],
            "stds": [list(tower.std) for tower in towers],
        },
        "tokenizer_config.json": {
            "tokenizer_class": "LlamaTokenizer",
            "processor_class": "PrismaticProcessor",
            "auto_map": {"AutoProcessor": f"{processing}.PrismaticProcessor"},
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "<PAD>",
            "unk_token": "<unk>",
            "clean_up_tokenization_spaces": False,
            "model_max_length": 2048,
        },
    }


def _text(config: VLMConfig, special: Special, rows: int) -> dict[str, Any]:
    decoder = config.decoder
    return {
        "model_type": "llama",
        "hidden_size": decoder.width,
        "intermediate_size": decoder.mlp,
        "num_hidden_layers": decoder.depth,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.key_heads,
        "rms_norm_eps": decoder.norm_epsilon,
        "rope_theta": decoder.rope_base,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "vocab_size": rows,
        "pad_token_id": special.pad,
    }


FORMAT = Format(
    name="openvla",
    programs=("torch_policy.py", "torch_hf.py", "exported_policy.py", "selftest.py"),
    packages={
        "torch": ">=2.2",
        "safetensors": ">=0.4",
        "transformers": ">=4.40,<4.41",
        "timm": ">=0.9.10,<0.10",
    },
    check=check,
    write=_write,
)

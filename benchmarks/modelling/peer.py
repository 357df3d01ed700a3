"""transformers: PaliGemma as PyTorch runs it, not compiled, with fused AdamW."""

import pathlib

import einops
import numpy as np
import torch
import transformers
from safetensors.torch import load_file

from modelling.setting import (
    BATCH,
    CONFIG,
    IMAGE,
    PREFIX,
    SUFFIX,
    VOCABULARY,
    Inputs,
    Measured,
    clock,
)
from vla_jax.train.optimizer import OptimizerConfig


def run(weights: pathlib.Path, device: str, dtype: str, times: int) -> Measured:
    """Measures both; in bfloat16 training is under autocast, acting is with converted weights."""
    torch.set_num_threads(1)
    model = _model(weights).to(device)
    size = sum(parameter.numel() for parameter in model.parameters())
    half = dtype == "bfloat16"
    rule = OptimizerConfig()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=rule.learning_rate,
        betas=(rule.b1, rule.b2),
        weight_decay=rule.weight_decay,
        fused=True,
    )
    inputs, losses = _inputs(Inputs.make(BATCH), PREFIX + SUFFIX, device), []
    labels = inputs["input_ids"].clone()
    labels[:, :-SUFFIX] = -100

    def advance() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = model(**inputs, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), rule.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))

    act_cpu, act_wall, tokens = _act(model, device, times, half=half)
    model.train()
    advance()
    advance()
    train_cpu, train_wall = clock(advance, times)
    return Measured(
        train_cpu=train_cpu,
        train_wall=train_wall,
        act_cpu=act_cpu,
        act_wall=act_wall,
        parameters=size,
        loss=losses[0],
        tokens=tokens,
    )


def _act(
    model: torch.nn.Module, device: str, times: int, *, half: bool
) -> tuple[float, float, list[int]]:
    """Decodes freely from one image."""
    model.eval()
    acting = model.to(torch.bfloat16) if half else model
    inputs = _inputs(Inputs.make(1), PREFIX, device)
    inputs["pixel_values"] = inputs["pixel_values"].to(next(acting.parameters()).dtype)

    def act() -> list[int]:
        with torch.inference_mode():
            out = acting.generate(
                **inputs, do_sample=False, max_new_tokens=SUFFIX, min_new_tokens=SUFFIX
            )
        return out[0, -SUFFIX:].tolist()

    tokens = act()
    measured = clock(act, times)
    if half:
        model.to(torch.float32)
    return *measured, tokens


def _inputs(batch: Inputs, length: int, device: str) -> dict[str, torch.Tensor]:
    """Returns image ids and `length` tokens; what is behind the prefix is causal."""
    tokens = batch.tokens[:, :length].astype(np.int64)
    images = np.full((len(tokens), CONFIG.image_tokens), IMAGE)
    ids = torch.from_numpy(np.concatenate([images, tokens], axis=1))
    suffix = torch.zeros_like(ids)
    suffix[:, CONFIG.image_tokens + PREFIX :] = 1
    pixels = einops.rearrange(batch.images / np.float32(127.5) - 1, "b y x c -> b c y x")
    named = {
        "input_ids": ids,
        "pixel_values": torch.from_numpy(pixels.astype(np.float32)),
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": suffix,
    }
    return {name: tensor.to(device) for name, tensor in named.items()}


def _model(weights: pathlib.Path) -> torch.nn.Module:
    vision, decoder = CONFIG.vision, CONFIG.decoder
    config = transformers.PaliGemmaConfig(
        text_config={
            "model_type": "gemma",
            "vocab_size": VOCABULARY,
            "hidden_size": decoder.width,
            "intermediate_size": decoder.mlp,
            "num_hidden_layers": decoder.depth,
            "num_attention_heads": decoder.heads,
            "num_key_value_heads": decoder.key_heads,
            "head_dim": decoder.head_dim,
        },
        vision_config={
            "model_type": "siglip_vision_model",
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "hidden_size": vision.width,
            "intermediate_size": vision.mlp,
            "num_hidden_layers": vision.depth,
            "num_attention_heads": vision.heads,
            "vision_use_head": False,
        },
        projection_dim=decoder.width,
        image_token_index=IMAGE,
    )
    # Nothing ends early: the same number of tokens for everyone.
    model = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
        None, config=config, state_dict=load_file(weights), dtype=torch.float32
    )
    model.generation_config.eos_token_id = None
    return model

"""transformers: PaliGemma as PyTorch runs it, not compiled, with fused AdamW."""

import pathlib
from typing import Any

import einops
import numpy as np
import torch
import transformers
from safetensors.torch import load_file

from modelling.setting import Acted, Inputs, Shape, Trained, clock, resident
from vla_jax.train.optimizer import OptimizerConfig


def train(
    shape: Shape, weights: pathlib.Path | None, device: str, dtype: str, times: int
) -> Trained:
    """Measures training steps; in bfloat16 under autocast, with float32 masters.

    Args:
      shape: what is trained.
      weights: a file that `setting.write_weights` wrote; None for random ones.
      device: `cpu` or `cuda`.
      dtype: of the computation.
      times: measured steps.
    """
    torch.set_num_threads(1)
    model = _model(shape, weights, device).train()
    half, rule = dtype == "bfloat16", OptimizerConfig()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=rule.learning_rate,
        betas=(rule.b1, rule.b2),
        weight_decay=rule.weight_decay,
        fused=True,
    )
    inputs = _inputs(shape, Inputs.make(shape, shape.batch), shape.prefix + shape.suffix, device)
    labels, losses = inputs["input_ids"].clone(), []
    labels[:, : -shape.suffix] = -100

    def advance() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = model(**inputs, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), rule.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        if device == "cuda":
            torch.cuda.synchronize()

    advance()
    advance()
    cpu, wall = clock(advance, times)
    return Trained(
        cpu=cpu,
        wall=wall,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        loss=losses[0],
        memory=torch.cuda.max_memory_allocated() if device == "cuda" else resident(),
    )


def act(shape: Shape, weights: pathlib.Path, device: str, dtype: str, times: int) -> Acted:
    """Measures actions: decodes freely from one image, in bfloat16 with converted weights."""
    torch.set_num_threads(1)
    model = _model(shape, weights, device).eval()
    if dtype == "bfloat16":
        model.bfloat16()
    inputs = _inputs(shape, Inputs.make(shape, 1), shape.prefix, device)
    inputs["pixel_values"] = inputs["pixel_values"].to(next(model.parameters()).dtype)
    length = {"max_new_tokens": shape.suffix, "min_new_tokens": shape.suffix}

    def call() -> list[int]:
        with torch.inference_mode():
            out = model.generate(**inputs, do_sample=False, **length)
        return out[0, -shape.suffix :].tolist()

    tokens = call()
    cpu, wall = clock(call, times)
    return Acted(cpu=cpu, wall=wall, tokens=tokens)


def _inputs(shape: Shape, batch: Inputs, length: int, device: str) -> dict[str, torch.Tensor]:
    """Returns image ids and `length` tokens; what is behind the prefix is causal."""
    tokens = batch.tokens[:, :length].astype(np.int64)
    images = np.full((len(tokens), shape.config.image_tokens), shape.image)
    ids = torch.from_numpy(np.concatenate([images, tokens], axis=1))
    suffix = torch.zeros_like(ids)
    suffix[:, shape.config.image_tokens + shape.prefix :] = 1
    pixels = einops.rearrange(batch.images / np.float32(127.5) - 1, "b y x c -> b c y x")
    named = {
        "input_ids": ids,
        "pixel_values": torch.from_numpy(pixels.astype(np.float32)),
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": suffix,
    }
    return {name: tensor.to(device) for name, tensor in named.items()}


def _model(shape: Shape, weights: pathlib.Path | None, device: str) -> Any:
    """Returns a model with the weights of a file, or random ones made on the device."""
    vision, decoder = shape.config.vision, shape.config.decoder
    config = transformers.PaliGemmaConfig(
        text_config={
            "model_type": "gemma",
            "vocab_size": shape.vocabulary,
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
        image_token_index=shape.image,
    )
    kind = transformers.PaliGemmaForConditionalGeneration
    if weights is None:
        with torch.device(device):
            return kind(config)
    model = kind.from_pretrained(
        None, config=config, state_dict=load_file(weights), dtype=torch.float32
    )
    # Nothing ends early: the same number of tokens for everyone.
    model.generation_config.eos_token_id = None
    return model.to(device)

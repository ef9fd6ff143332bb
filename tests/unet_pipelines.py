"""Diffusers pipelines with random weights: small, but of the real classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

CHANNELS = 8  # of the latents of conftest's random model
SCALED_LINEAR = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
FAMILIES = ("sd15", "sd21-v", "sd-turbo", "sdxl", "sdxl-turbo", "sdxl-encoders", "unconditional")


def save_pipeline(family: str, folder: Path, channels: int = CHANNELS) -> Path:
    """Write `unet/`, `scheduler/`, `model_index.json`, text encoders and tokenizers."""
    import diffusers

    torch.manual_seed(7)
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline"}
    if family == "unconditional":
        index["_class_name"] = "DDPMPipeline"
        unet = diffusers.UNet2DModel(
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            **_widths(channels),
        )
        unet.save_pretrained(folder / "unet")
        diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(folder / "scheduler")
    else:
        xl = family.startswith("sdxl")
        _conditional_unet(xl, channels).save_pretrained(folder / "unet")
        _scheduler(family).save_pretrained(folder / "scheduler")
        save_text_encoder(folder, "", projected=False)
        if xl:
            index |= {"_class_name": "StableDiffusionXLPipeline"}
            index |= {"force_zeros_for_empty_prompt": family != "sdxl-encoders"}
            save_text_encoder(folder, "_2", projected=True)
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def save_text_encoder(folder: Path, suffix: str, *, projected: bool) -> None:
    """Make a CLIP text encoder 16 wide and a tokenizer of a few letters."""
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=6,
        hidden_size=16,
        intermediate_size=16,
        projection_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=4,
        eos_token_id=5,
        pad_token_id=5,
    )
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    kind(config).save_pretrained(folder / f"text_encoder{suffix}")
    place = folder / f"tokenizer{suffix}"
    place.mkdir()
    words = {"a": 0, "b": 1, "a</w>": 2, "b</w>": 3, "<|startoftext|>": 4, "<|endoftext|>": 5}
    (place / "vocab.json").write_text(json.dumps(words))
    (place / "merges.txt").write_text("#version: 0.2\n")
    (place / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>"})
    )
    transformers.CLIPTokenizer.from_pretrained(place).save_pretrained(place)


def _widths(channels: int) -> dict[str, Any]:
    return {
        "sample_size": 16,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 8,
    }


def _conditional_unet(xl: bool, channels: int) -> Any:
    import diffusers

    sizes: dict[str, Any] = {
        "cross_attention_dim": 16,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    if xl:
        sizes |= {
            "cross_attention_dim": 32,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 16 + 6 * 8,
            "transformer_layers_per_block": (1, 2),
            "use_linear_projection": True,
        }
    return diffusers.UNet2DConditionModel(**(_widths(channels) | sizes))


def _scheduler(family: str) -> Any:
    import diffusers

    if family == "sd21-v":
        return diffusers.DDIMScheduler(prediction_type="v_prediction", **SCALED_LINEAR)
    if family == "sd-turbo":
        return diffusers.EulerDiscreteScheduler(timestep_spacing="trailing", **SCALED_LINEAR)
    if family == "sdxl-turbo":
        return diffusers.EulerAncestralDiscreteScheduler(timestep_spacing="trailing", **SCALED_LINEAR)
    if family == "sd15":
        return diffusers.PNDMScheduler(skip_prk_steps=True, **SCALED_LINEAR)
    return diffusers.EulerDiscreteScheduler(**SCALED_LINEAR)

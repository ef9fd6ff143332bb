"""Folders as diffusers writes them, with random weights: all autoencoder families.

There is a small pipeline, too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from unet_pipelines import save_text_encoder

KL: dict[str, Any] = {
    "block_out_channels": (8, 8, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 64,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "sd1": ("AutoencoderKL", {**KL, "latent_channels": 4, "scaling_factor": 0.18215}),
    "sdxl": ("AutoencoderKL", {**KL, "latent_channels": 4, "scaling_factor": 0.13025, "force_upcast": True}),
    "flux": (
        "AutoencoderKL",
        {
            **KL,
            "latent_channels": 16,
            "scaling_factor": 0.3611,
            "shift_factor": 0.1159,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        },
    ),
    "normalised": (
        "AutoencoderKL",
        {
            **KL,
            "latent_channels": 4,
            "scaling_factor": 0.5,
            "latents_mean": [-1.6, 0.4, 0.2, -0.1],
            "latents_std": [8.4, 5.9, 6.2, 4.4],
        },
    ),
    "taesd": (
        "AutoencoderTiny",
        {
            "encoder_block_out_channels": (8, 8, 8, 8),
            "decoder_block_out_channels": (8, 8, 8, 8),
            "num_encoder_blocks": (1, 1, 1, 1),
            "num_decoder_blocks": (1, 1, 1, 1),
            "latent_channels": 4,
        },
    ),
    "dc": (
        "AutoencoderDC",
        {
            "latent_channels": 8,
            "attention_head_dim": 8,
            "encoder_block_types": ("ResBlock",) * 4 + ("EfficientViTBlock",) * 2,
            "decoder_block_types": ("ResBlock",) * 4 + ("EfficientViTBlock",) * 2,
            "encoder_block_out_channels": (8, 8, 16, 16, 16, 16),
            "decoder_block_out_channels": (8, 8, 16, 16, 16, 16),
            "encoder_layers_per_block": (1,) * 6,
            "decoder_layers_per_block": (1,) * 6,
            "encoder_qkv_multiscales": ((), (), (), (), (3,), (3,)),
            "decoder_qkv_multiscales": ((), (), (), (), (3,), (3,)),
            "scaling_factor": 0.41407,
        },
    ),
    "flux2": ("AutoencoderKLFlux2", {**KL, "latent_channels": 8}),
}


def network(family: str, seed: int = 3) -> Any:
    """Make a network of diffusers with random weights, in evaluation mode."""
    import diffusers

    torch.manual_seed(seed)
    name, arguments = FAMILIES[family]
    made = getattr(diffusers, name)(**arguments).eval()
    if family == "flux2":
        made.bn.running_mean.normal_(0, 0.1)
        made.bn.running_var.uniform_(0.5, 2)
    return made


def autoencoder_folder(family: str, folder: Path) -> Path:
    """Write an autoencoder alone with `save_pretrained`."""
    network(family).save_pretrained(folder)
    return folder


def pipeline_folder(folder: Path) -> Path:
    """Write a pipeline of Stable Diffusion 1.x without its UNet.

    It has VAE, CLIP text encoder and tokenizer, index, model card and licence.
    """
    network("sd1").save_pretrained(folder / "vae")
    save_text_encoder(folder, "", projected=False)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n# A random model\n")
    (folder / "LICENSE").write_text("The licence's text\n")
    return folder

"""Denoising of dequantised latents by a UNet before decoding (docs/denoising.md)."""

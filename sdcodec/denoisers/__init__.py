"""Denoising: what a UNet does to dequantised latents before they are decoded (docs/denoising.md)."""

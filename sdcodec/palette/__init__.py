"""The experiment of 2022: latents in 8 bits, a palette of latent vectors, dithering (docs/experiment-2022.md)."""

"""The experiment of 2022: a palette of latent vectors (docs/experiment-2022.md)."""

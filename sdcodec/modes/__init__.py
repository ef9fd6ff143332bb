"""Modes of encoding: latents ↔ the payload of a file."""

"""Modes of encoding: how an image's latents become the payload of a file, and back."""

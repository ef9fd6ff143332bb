"""Perceptual distances that training, refinement and evaluation share."""

"""Priors: from decoded integers to a mean and a frequency table for every symbol."""

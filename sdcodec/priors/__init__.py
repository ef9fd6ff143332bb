"""Priors: from what is decoded already, in integers, to a mean and a frequency table for every symbol."""

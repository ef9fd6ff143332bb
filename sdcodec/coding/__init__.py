"""Entropy coding: symbols and table indices ↔ bytes, the same on every machine."""

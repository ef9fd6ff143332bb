"""Entropy coding: symbols and table indices ↔ bytes, exactly the same on every machine."""

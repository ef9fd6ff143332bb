"""Formatting of numbers and values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MISSING = "–"


def figure(value: float | None, digits: int) -> str:
    """Format a number with thousands separators."""
    if value is None:
        return MISSING
    return "∞" if math.isinf(value) else f"{value:,.{digits}f}"


def compact(value: float | None) -> str:
    """Format a budget or a quality with its own number of decimals."""
    return MISSING if value is None else f"{value:,.10g}"


def signed(value: float) -> str:
    """Format a percentage with a sign, U+2212 for minus."""
    return f"{value:+.1f}".replace("-", "−")


def number(value: float | None) -> str:
    """Format a number as a key for sorting; empty if there is none."""
    if value is None:
        return ""
    return "Infinity" if math.isinf(value) else f"{value:.10g}"


def plain(value: Any) -> str:
    """Format any JSON value in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(inner) for inner in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return MISSING if value is None else str(value)

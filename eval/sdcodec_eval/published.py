"""Published figures of other codecs on whole Kodak."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

CURVES, KODAK = "published.json", "kodak-pixels.json"


@dataclass(frozen=True)
class PublishedCurve:
    """Published figures of one codec; `points` hold bpp and metrics by column."""

    name: str
    source: str
    note: str
    points: tuple[dict[str, float], ...]


def published_curves() -> list[PublishedCurve]:
    """Return all published curves of the package."""
    return [
        PublishedCurve(c["name"], c["source"], c["note"], tuple(dict(point) for point in c["points"]))
        for c in _data(CURVES)["curves"]
    ]


def note() -> str:
    """Return the note that applies to all published figures."""
    return str(_data(CURVES)["note"])


def is_kodak(digests: set[str | None]) -> bool:
    """Check whether the digests are those of exactly the 24 Kodak images."""
    return digests == set(_data(KODAK)["pictures"].values())


def are_of_kodak(digests: set[str | None]) -> bool:
    """Check whether all digests are those of Kodak images."""
    return bool(digests) and digests <= set(_data(KODAK)["pictures"].values())


def _data(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((files("sdcodec_eval") / "data" / name).read_text(encoding="utf-8"))
    return values

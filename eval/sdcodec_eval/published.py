"""Figures that others have published on whole Kodak, to be shown beside ours."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

CURVES, KODAK = "published.json", "kodak-pixels.json"


@dataclass(frozen=True)
class PublishedCurve:
    """A system's figures, where they are from, and `points`: bpp and metrics by our columns."""

    name: str
    source: str
    note: str
    points: tuple[dict[str, float], ...]


def published_curves() -> list[PublishedCurve]:
    """All that are in the package; see `published.json` for what they have in common."""
    return [
        PublishedCurve(c["name"], c["source"], c["note"], tuple(dict(point) for point in c["points"]))
        for c in _data(CURVES)["curves"]
    ]


def note() -> str:
    """What is to be known about all of them."""
    return str(_data(CURVES)["note"])


def is_kodak(digests: set[str | None]) -> bool:
    """Whether pictures with these digests (`sdcodec_eval.pictures.pixel_digest`) are the 24 of Kodak, no more, no fewer."""
    return digests == set(_data(KODAK)["pictures"].values())


def are_of_kodak(digests: set[str | None]) -> bool:
    """Whether all pictures are of Kodak."""
    return bool(digests) and digests <= set(_data(KODAK)["pictures"].values())


def _data(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((files("sdcodec_eval") / "data" / name).read_text(encoding="utf-8"))
    return values

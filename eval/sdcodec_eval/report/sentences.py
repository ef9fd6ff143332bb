"""Sentences of the page: title, summary and notes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sdcodec_eval.report.figures import figure, plain, signed
from sdcodec_eval.report.opening import SPELLINGS, Shown, start_point
from sdcodec_eval.report.pictures import Gallery
from sdcodec_eval.report.results import Results


def title(results: Results, codecs: Sequence[Shown]) -> str:
    """Name the codecs, the images and the sizes."""
    names = _series([codec.name for codec in codecs]) if len(codecs) <= 6 else f"{len(codecs)} codecs"
    images = results.readable_images
    pictures = f"the image {images[0]}" if len(images) == 1 else f"{len(images)} images"
    if results.dataset:
        pictures += f" of {results.dataset}"
    if not results.budgets:
        counts = {len(codec.points) for codec in results.codecs}
        return f"{names} on {pictures}, at {counts.pop() if len(counts) == 1 else 'several'} qualities each"
    if len(results.budgets) > 5:
        low, high = min(results.budgets), max(results.budgets)
        return f"{names} on {pictures}, at {len(results.budgets)} sizes from {low:,} to {high:,} bytes"
    return f"{names} on {pictures}, at {_series([f'{budget:,}' for budget in results.budgets])} bytes"


def lede(results: Results, codecs: Sequence[Shown]) -> str:
    """Summarise the headline metric at the starting budget, or the BD-rates."""
    sentences = []
    if results.crop:
        sentences.append(f"Centre crops of {results.crop} × {results.crop} pixels.")
    if results.budgets:
        metric, budget = results.headline, start_point(results)
        found = []
        for codec, shown in zip(results.codecs, codecs, strict=True):
            point = next((point for point in codec.points if point.budget == budget), None)
            value = point.values[metric.column] if point else None
            if point is not None and value is not None:
                partial = "" if point.complete else f" (on {point.pictures} of {point.total} only)"
                found.append((value, f"{shown.name} {figure(value, 3)}{partial}"))
        if found:
            found.sort(reverse=metric.higher_is_better)
            better = "higher" if metric.higher_is_better else "lower"
            means = ", ".join(text for _, text in found)
            sentences.append(f"Mean {metric.name} at {budget:,} bytes, {better} is better: {means}.")
    elif rates := [
        (entry.percent, f"{shown.name} {signed(entry.percent)} %")
        for shown in codecs
        for entry in results.bd_rate
        if entry.codec == shown.label and entry.metric == results.headline.column and entry.percent is not None
    ]:
        anchor = SPELLINGS.get(results.anchor or "", results.anchor)
        said = ", ".join(text for _, text in sorted(rates))
        sentences.append(f"BD-rate against {anchor} by {results.headline.name}, negative is fewer bytes: {said}.")
    return " ".join(sentences) or "Means over images, and every image beside its original."


def gallery_note(results: Results, names: Mapping[str, str], count: int) -> str:
    """Describe the image comparison."""
    pictures = "One image" if count == 1 else f"{count} images"
    if results.budgets:
        return f"{pictures}: two codecs at equal bytes, or a codec and the original."
    reference = names[results.reference.label]
    return (
        f"{pictures}: two codecs, or a codec and the original. {reference} has the selected quality, "
        "the other codecs the file of the nearest length."
    )


def storage_note(results: Results, gallery: Gallery, names: Mapping[str, str]) -> str:
    """Describe the storage of the images in the page and its loss."""
    real, pixels = [], []
    for codec in results.codecs:
        kinds = {
            gallery.pictures[f"r{number}"].from_pixels
            for number, row in enumerate(results.rows)
            if row.codec == codec.label and f"r{number}" in gallery.pictures
        }
        if False in kinds:
            real.append(names[codec.label])
        if True in kinds:
            pixels.append(names[codec.label])
    note = f"This page contains the encoded files of {_series(real)}, which the browser decodes. " if real else ""
    stored = f"The originals and the pixels decoded from files of {_series(pixels)}" if pixels else "The originals"
    if math.isinf(gallery.worst_psnr):
        return f"{note}{stored} are stored losslessly."
    kept = f"as AVIF 4:4:4 at quality {gallery.quality}, to keep the page small" if gallery.quality else "as AVIF 4:4:4"
    return f"{note}{stored} are stored {kept}, with at least {gallery.worst_psnr:.1f} dB PSNR to the measured pixels."


def left_out_note(results: Results, gallery: Gallery) -> str:
    """Name the images that did not fit into the page."""
    if not gallery.left_out:
        return ""
    names = ", ".join(gallery.left_out[:12]) + (" and more" if len(gallery.left_out) > 12 else "")
    return (
        f"To keep the page small, {len(gallery.left_out)} of {len(results.images)} images are in the tables only, "
        f"those with the best {results.headline.name}: {names}. Their files are in the results folder."
    )


def equal_bytes_note(results: Results, names: Mapping[str, str]) -> str:
    """Describe the rule of equal bytes."""
    if not any(codec.reference for codec in results.codecs):
        return (
            "Equal bytes: every codec has its highest quality whose file meets the budget. If there is none, the row is "
            "marked as unreachable."
        )
    name = names[results.reference.label]
    return (
        f"Equal bytes: {name} meets the budget first; every other codec has its highest quality whose file is not longer "
        f"than {name}’s. If there is none, the row is marked as unreachable."
    )


def environment_lines(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values of the environment, without codecs and checksums."""
    options = {key: value for key, value in (environment.get("options") or {}).items() if key != "codecs"}
    rest = {key: value for key, value in environment.items() if key not in ("command", "images", "options")}
    return [
        (key.replace("_", " "), plain(value))
        for key, value in (options | rest).items()
        if value is not None and value not in ([], {})
    ]


def _series(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"

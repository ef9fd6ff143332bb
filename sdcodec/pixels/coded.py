"""Coded colour: code points, gamma and primaries of files without an ICC profile.

Code points are those of ITU-T H.273. HDR (PQ and HLG of ITU-R BT.2100) is tone-mapped by the EETF of ITU-R BT.2390,
with the reference white of 203 cd/m2 (BT.2408) as the white of sRGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdcodec.pixels.picture import Pixels

Floats = NDArray[np.float32]

REFERENCE_WHITE = 203.0  # cd/m2
HLG_PEAK = 1000.0  # cd/m2, of the display that HLG is meant for
HLG_GAMMA = 1.2  # of the system, with that peak
UNSPECIFIED, SRGB, LINEAR, PQ, HLG = 2, 13, 8, 16, 18
BT709_PRIMARIES, XYZ_PRIMARIES, DISPLAY_P3 = 1, 10, 12
# The camera curve of BT.709 and its kin describes no display: their images are shown like sRGB.
LIKE_SRGB = frozenset({1, UNSPECIFIED, 6, 11, 12, SRGB, 14, 15})
POWERS = {4: 2.2, 5: 2.8}
SIGNIFICANT_GAMMA = 0.05  # a gamma within 5% of 2.2 means sRGB, as in libpng

D65 = (0.3127, 0.329)
C_WHITE = (0.31, 0.316)
# x and y of red, green, blue and white.
PRIMARIES: dict[int, tuple[float, ...]] = {
    1: (0.64, 0.33, 0.3, 0.6, 0.15, 0.06, *D65),
    4: (0.67, 0.33, 0.21, 0.71, 0.14, 0.08, *C_WHITE),
    5: (0.64, 0.33, 0.29, 0.6, 0.15, 0.06, *D65),
    6: (0.63, 0.34, 0.31, 0.595, 0.155, 0.07, *D65),
    7: (0.63, 0.34, 0.31, 0.595, 0.155, 0.07, *D65),
    8: (0.681, 0.319, 0.243, 0.692, 0.145, 0.049, *C_WHITE),
    9: (0.708, 0.292, 0.17, 0.797, 0.131, 0.046, *D65),
    10: (1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1 / 3, 1 / 3),
    11: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.314, 0.351),
    12: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, *D65),
    22: (0.63, 0.34, 0.295, 0.605, 0.155, 0.077, *D65),
}
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
ROWS_AT_ONCE = 256


class CodePoints(NamedTuple):
    """Primaries, transfer function and matrix of ITU-T H.273."""

    primaries: int
    transfer: int
    matrix: int
    full_range: int = 1


@dataclass(frozen=True)
class CodedColour:
    """The colour that a file states without an ICC profile.

    transfer: a code of H.273, or None for a power of 1 / `gamma`; chromaticities: x and y of red, green, blue, white.
    """

    chromaticities: tuple[float, ...]
    transfer: int | None
    gamma: float = 1 / 2.2
    full_range: bool = True

    @property
    def is_hdr(self) -> bool:
        return self.transfer in (PQ, HLG)

    @property
    def is_srgb(self) -> bool:
        """Whether values are sRGB already, to the accuracy of the tags in files."""
        near = np.abs(np.subtract(self.chromaticities, PRIMARIES[BT709_PRIMARIES])).max() < 0.002
        return bool(near) and self.transfer == SRGB and self.full_range


def from_code_points(points: CodePoints) -> CodedColour:
    """Return the colour of code points; unspecified and reserved ones are sRGB."""
    transfer = SRGB if points.transfer in LIKE_SRGB else points.transfer
    gamma = 1 / 2.2
    if transfer in POWERS:
        gamma = 1 / POWERS[transfer]
    known = transfer in (SRGB, LINEAR, PQ, HLG) or transfer in POWERS
    return CodedColour(
        PRIMARIES.get(points.primaries, PRIMARIES[BT709_PRIMARIES]),
        None if transfer in POWERS else transfer if known else SRGB,
        gamma,
        bool(points.full_range),
    )


def from_gamma(gamma: float | None, chromaticities: tuple[float, ...] | None) -> CodedColour:
    """Return the colour of a PNG's chunks gAMA and cHRM; either may be missing."""
    like_srgb = gamma is None or abs(gamma * 2.2 - 1) < SIGNIFICANT_GAMMA
    own = chromaticities if chromaticities is not None and _is_valid(chromaticities) else PRIMARIES[BT709_PRIMARIES]
    return CodedColour(own, SRGB if like_srgb else None, gamma or 1 / 2.2)


def converted(values: NDArray[Any], colour: CodedColour) -> Pixels:
    """Convert RGB `[H, W, 3]`, uint8 or uint16, to 8-bit sRGB."""
    table = _linear(np.arange(np.iinfo(values.dtype).max + 1) / np.iinfo(values.dtype).max, colour)
    matrix = (np.linalg.inv(_to_xyz(PRIMARIES[BT709_PRIMARIES])) @ _to_xyz(colour.chromaticities)).astype(np.float32)
    strips = [values[top : top + ROWS_AT_ONCE] for top in range(0, len(values), ROWS_AT_ONCE)]
    result = np.empty(values.shape, np.uint8)
    peak = _peak([_light(table[strip], colour).max(axis=2) for strip in strips]) if colour.is_hdr else 1.0
    for number, strip in enumerate(strips):
        light = _light(table[strip], colour)
        if colour.is_hdr:
            light = tone_mapped(light, peak)
        encoded = _srgb_encoded((light @ matrix.T).clip(0, 1))
        result[number * ROWS_AT_ONCE : number * ROWS_AT_ONCE + len(strip)] = np.rint(encoded * 255)
    return result


def tone_mapped(light: Floats, peak: float) -> Floats:
    """Compress light `[..., 3]`, 1 for reference white, by the EETF of ITU-R BT.2390.

    peak: the largest light, which becomes 1. The factor is that of the largest component, so that hues stay.
    """
    if peak <= 1:
        return light
    largest = light.max(axis=-1, keepdims=True)
    top = pq_encoded(peak)
    target = pq_encoded(1.0) / top
    knee = 1.5 * target - 0.5
    code = (pq_encoded(largest) / top).clip(0, 1)
    t = (code - knee) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * target
    mapped = pq_decoded(np.where(code < knee, code, spline) * top)
    return (light * (mapped / np.maximum(largest, 1e-9))).astype(np.float32)


def pq_decoded(code: Any) -> Any:
    """Return the light of a PQ code 0..1, 1 for reference white (SMPTE ST 2084)."""
    power = np.asarray(code, np.float64) ** (1 / 78.84375)
    light = np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)
    return light ** (1 / 0.1593017578125) * (10000 / REFERENCE_WHITE)


def pq_encoded(light: Any) -> Any:
    """Return the PQ code of light, the inverse of `pq_decoded`."""
    power = (np.asarray(light, np.float64) * (REFERENCE_WHITE / 10000)) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def _linear(code: NDArray[np.float64], colour: CodedColour) -> Floats:
    """Return linear components for codes 0..1; for HLG those of the scene."""
    if not colour.full_range:
        code = ((code * 255 - 16) / 219).clip(0, 1)
    if colour.transfer == PQ:
        return pq_decoded(code).astype(np.float32)
    if colour.transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073  # ITU-R BT.2100, table 5
        return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)
    if colour.transfer == LINEAR:
        return code.astype(np.float32)
    if colour.transfer is None:
        return (code ** (1 / colour.gamma)).astype(np.float32)
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _light(linear: Floats, colour: CodedColour) -> Floats:
    """Return light on the display; HLG's goes through the system gamma of BT.2100."""
    if colour.transfer != HLG:
        return linear
    luminance = linear @ np.array([0.2627, 0.678, 0.0593], np.float32)
    return linear * (HLG_PEAK / REFERENCE_WHITE * luminance[..., None] ** (HLG_GAMMA - 1))


def _peak(largest: list[Floats]) -> float:
    """Return the light that all but one in 10,000 pixels do not exceed."""
    return float(np.percentile(np.concatenate(largest), 99.99))


def _srgb_encoded(light: Floats) -> Floats:
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def _to_xyz(chromaticities: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the matrix from linear RGB to XYZ, adapted to D65 (Bradford)."""
    x, y = np.array(chromaticities[0::2]), np.array(chromaticities[1::2])
    if chromaticities == PRIMARIES[XYZ_PRIMARIES]:
        primaries = np.eye(3)
    else:
        primaries = np.stack([x[:3] / y[:3], np.ones(3), (1 - x[:3] - y[:3]) / y[:3]])
    white = np.array([x[3] / y[3], 1, (1 - x[3] - y[3]) / y[3]])
    matrix = primaries * np.linalg.solve(primaries, white)
    target = np.array([D65[0] / D65[1], 1, (1 - sum(D65)) / D65[1]])
    gain = (BRADFORD @ target) / (BRADFORD @ white)
    return np.linalg.inv(BRADFORD) @ np.diag(gain) @ BRADFORD @ matrix


def _is_valid(chromaticities: tuple[float, ...]) -> bool:
    x, y = np.array(chromaticities[0:8:2]), np.array(chromaticities[1:8:2])
    area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
    return bool((y > 0).all() and (x >= 0).all() and (x + y <= 1).all() and abs(area) > 1e-3)

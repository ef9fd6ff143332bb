"""Constants of coding, training, export and tests.

Those that decide symbols are part of the format.
"""

from __future__ import annotations

import math

# Quality 0..100 in increments of 0.5: the rows of every table that depends on quality.
QUALITY_LEVELS = 201
HIGHEST_QUALITY_INDEX = QUALITY_LEVELS - 1

# Fixed-point units of the integer prior.
ACTIVATION_BITS = 5  # activations count in 1/32
ACTIVATION_ONE = 1 << ACTIVATION_BITS
ACTIVATION_LIMIT = 127  # of int8, both signs
WEIGHT_LIMIT = 127
WEIGHT_SHIFT_LIMIT = 14  # weights count in 2**-14 at the finest
EXACT_LIMIT = 1 << 24  # float32 holds every whole number below it exactly
RATIO_BITS = 24  # multipliers that depend on quality count in 2**-24
RATIO_ONE = 1 << RATIO_BITS
MEAN_BITS = 4  # means and dequantised symbols count in 1/16 of a quantiser step
MEAN_ONE = 1 << MEAN_BITS
MEAN_LIMIT = 1 << 19

# Frequency tables: standard deviations in quantiser steps, spaced evenly in their logarithm.
SCALE_MIN, SCALE_MAX, SCALE_COUNT = 0.11, 128.0, 64
SCALE_RATIO = math.log(SCALE_MAX / SCALE_MIN) / (SCALE_COUNT - 1)

# Geometry of files.
BLOCK_LATENTS = 64  # latents along a side of a block, which has an entropy-coded stream of its own

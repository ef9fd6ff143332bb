"""Initial tensors of the adaptive prior: weights of its regimes and its tables."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from sdcodec.coding.tables import FrequencyTables, gaussian_mixture_tables, scales
from sdcodec.priors.adaptive import SIZE_BITS, AdaptiveConfig
from sdcodec.priors.adaptive_state import LATTICE_COUNT

SPREAD = 0.25  # standard deviation of the logarithm of a symbol's true scale around the predicted one

# Found by `benchmarks/adaptive_weights.py` on latents of photographs: nine regimes of an autoencoder whose channels have
# about the same size (TAEF2, FLUX.2's), then six of one whose channels have not (an earlier embedded model), each from fine
# quantiser steps to coarse ones. A regime has, for each lattice, the weights of (beside, over, across) in 1/1024, and of
# (1, own, every, level, bend) in 1/4096.
# fmt: off
_MEAN_WEIGHTS = (
    ((0, 0, 0), (0, 0, 178), (220, 209, 0), (197, 174, 47), (0, 0, 225), (263, 227, 0), (230, 188, 44)),
    ((0, 0, 0), (0, 0, 178), (220, 209, 0), (196, 173, 48), (0, 0, 224), (263, 227, 0), (228, 187, 46)),
    ((0, 0, 0), (0, 0, 178), (219, 209, 0), (193, 170, 51), (0, 0, 223), (260, 227, 0), (222, 183, 50)),
    ((0, 0, 0), (0, 0, 180), (218, 208, 0), (188, 164, 56), (0, 0, 222), (254, 229, 0), (211, 177, 59)),
    ((0, 0, 0), (0, 0, 177), (209, 207, 0), (179, 152, 65), (0, 0, 218), (244, 231, 0), (196, 166, 71)),
    ((0, 0, 0), (0, 0, 170), (198, 203, 0), (167, 136, 79), (0, 0, 213), (229, 237, 0), (182, 146, 88)),
    ((0, 0, 0), (0, 0, 159), (181, 204, 0), (156, 116, 97), (0, 0, 207), (208, 252, 0), (169, 119, 116)),
    ((0, 0, 0), (0, 0, 149), (162, 209, 0), (151, 98, 122), (0, 0, 205), (186, 275, 0), (153, 85, 155)),
    ((0, 0, 0), (0, 0, 139), (145, 201, 0), (143, 82, 145), (0, 0, 195), (164, 282, 0), (153, 53, 187)),
    ((0, 0, 0), (0, 0, 130), (198, 166, 0), (156, 125, 74), (0, 0, 190), (225, 230, 0), (167, 160, 79)),
    ((0, 0, 0), (0, 0, 142), (211, 186, 0), (162, 138, 74), (0, 0, 209), (243, 244, 0), (172, 164, 85)),
    ((0, 0, 0), (0, 0, 152), (210, 209, 0), (172, 134, 80), (0, 0, 226), (244, 252, 0), (175, 152, 91)),
    ((0, 0, 0), (0, 0, 177), (207, 255, 0), (186, 111, 97), (0, 0, 235), (237, 272, 0), (175, 125, 108)),
    ((0, 0, 0), (0, 0, 209), (161, 324, 0), (190, 47, 138), (0, 0, 253), (207, 301, 0), (171, 78, 133)),
    ((0, 0, 0), (0, 0, 217), (120, 370, 0), (157, 4, 179), (0, 0, 259), (126, 371, 0), (193, -15, 165)),
)
_SIZE_WEIGHTS = (
    ((15777, 0, 0, 0, 0), (1430, 238, 292, 292, 0), (0, 234, 583, 0, 139), (0, 213, 230, 0, 106),
     (307, 287, 558, 17, 0), (0, 234, 545, 0, 151), (0, 210, 218, 0, 141)),
    ((9496, 0, 0, 0, 0), (1023, 230, 287, 287, 0), (0, 226, 596, 0, 136), (0, 206, 239, 0, 103),
     (376, 275, 551, 15, 0), (0, 224, 562, 0, 146), (0, 198, 233, 0, 142)),
    ((5981, 0, 0, 0, 0), (735, 219, 286, 286, 0), (0, 207, 624, 0, 133), (0, 186, 265, 0, 100),
     (473, 252, 553, 0, 0), (161, 201, 567, 0, 135), (229, 181, 232, 0, 133)),
    ((3750, 0, 0, 0, 0), (628, 182, 284, 284, 0), (172, 175, 630, 0, 112), (262, 163, 260, 0, 89),
     (573, 215, 524, 0, 0), (419, 171, 527, 0, 110), (457, 156, 220, 0, 111)),
    ((2486, 0, 0, 0, 0), (584, 144, 281, 281, 0), (376, 133, 601, 0, 102), (426, 135, 258, 0, 71),
     (633, 172, 494, 0, 0), (553, 127, 499, 0, 91), (543, 128, 224, 0, 82)),
    ((1693, 0, 0, 0, 0), (761, 105, 214, 214, 0), (622, 91, 483, 0, 93), (543, 109, 256, 0, 45),
     (691, 130, 446, 0, 0), (603, 83, 365, 79, 78), (616, 100, 218, 0, 61)),
    ((1161, 0, 0, 0, 0), (776, 97, 167, 167, 0), (715, 50, 363, 0, 110), (647, 99, 216, 0, 26),
     (693, 102, 218, 131, 0), (661, 30, 213, 120, 102), (646, 77, 211, 0, 42)),
    ((798, 0, 0, 0, 0), (687, 124, 156, 156, 0), (652, 0, 0, 303, 183), (611, 91, 108, 94, 56),
     (631, 98, 0, 301, 0), (613, 0, 8, 258, 130), (587, 53, 99, 88, 60)),
    ((581, 0, 0, 0, 0), (569, 124, 90, 90, 0), (556, 0, 0, 302, 189), (543, 91, 0, 203, 66),
     (547, 83, 0, 364, 0), (538, 0, 0, 338, 130), (523, 44, 0, 218, 51)),
    ((5407, 0, 0, 0, 0), (470, 629, 72, 72, 0), (462, 526, 137, 0, 203), (474, 302, 52, 0, 210),
     (537, 662, 157, 0, 0), (467, 470, 163, 0, 256), (501, 283, 55, 0, 247)),
    ((3306, 0, 0, 0, 0), (333, 586, 95, 95, 0), (308, 424, 197, 0, 340), (324, 269, 91, 0, 262),
     (383, 622, 228, 0, 0), (349, 371, 232, 0, 393), (372, 248, 97, 0, 307)),
    ((2068, 0, 0, 0, 0), (318, 569, 105, 105, 0), (279, 348, 237, 0, 467), (283, 247, 120, 0, 330),
     (337, 606, 281, 0, 0), (307, 295, 281, 0, 565), (320, 230, 131, 0, 388)),
    ((1321, 0, 0, 0, 0), (298, 538, 107, 107, 0), (259, 257, 256, 0, 711), (259, 229, 140, 0, 454),
     (295, 595, 338, 0, 0), (273, 217, 324, 0, 829), (279, 210, 167, 0, 541)),
    ((924, 0, 0, 0, 0), (298, 483, 72, 72, 0), (249, 192, 220, 0, 962), (232, 217, 152, 0, 577),
     (274, 586, 333, 0, 0), (248, 129, 328, 0, 1295), (249, 184, 190, 0, 883)),
    ((648, 0, 0, 0, 0), (271, 461, 52, 52, 0), (230, 180, 189, 0, 1060), (214, 208, 147, 0, 694),
     (246, 570, 323, 0, 0), (221, 67, 315, 0, 1834), (216, 166, 210, 0, 1394)),
)
# fmt: on


def adaptive_config(channels: int) -> AdaptiveConfig:
    """Return the configuration for latents of `channels` channels."""
    return AdaptiveConfig(channels, len(_MEAN_WEIGHTS))


def adaptive_prior_tensors(channels: int) -> tuple[dict[str, Tensor], FrequencyTables]:
    """Make the tensors of `AdaptivePrior` and its tables, for making a bundle."""
    sigmas = scales()
    edges = np.sqrt(sigmas[:-1] * sigmas[1:]) * math.sqrt(2 / math.pi) * (1 << SIZE_BITS)

    def nearest(sigma: float) -> int:
        return int(np.abs(np.log(sigmas / sigma)).argmin())

    regimes = len(_MEAN_WEIGHTS)
    kinds = ((1, regimes // 2, nearest(regimes / 3)), (LATTICE_COUNT, 0, nearest(0.7)), (2 * channels, 0, nearest(0.7)))
    tensors = {
        "mean_weights": torch.tensor(_MEAN_WEIGHTS, dtype=torch.int32),
        "size_weights": torch.tensor(_SIZE_WEIGHTS, dtype=torch.int32),
        "size_edges": torch.from_numpy(edges.round()).to(torch.int32),
        "side_middle": torch.tensor([middle for count, middle, _ in kinds for _ in range(count)], dtype=torch.int32),
        "side_table": torch.tensor([table for count, _, table in kinds for _ in range(count)], dtype=torch.int32),
    }
    return tensors, gaussian_mixture_tables(sigmas, SPREAD)

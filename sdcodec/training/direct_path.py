"""Linear path of a prior from context to means, solved for by least squares."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from sdcodec.constants import SCALE_RATIO
from sdcodec.priors.passes import GROUPS, pass_masks
from sdcodec.training.prior_data import Crops, FitConfig, deviations
from sdcodec.training.prior_layers import LARGEST_ACTIVATION, ContextPass
from sdcodec.training.prior_network import PriorNetwork

SOLVER_QUALITIES = (40.0, 60.0, 80.0, 100.0)
SOLVER_CROPS = 64
SOLVER_BATCH = 1 << 24  # a step that no training reaches: its windows are others
SOLVER_RIDGE = 0.01  # of the variance of a channel


@torch.no_grad()
def solve_direct(network: PriorNetwork, latents: list[Tensor], gain: Tensor, config: FitConfig) -> None:
    """Solve for the linear path from context to means, and set each pass's scales.

    Training then begins at linear prediction. For each pass and channel group: the latents, in their channels'
    deviations, from the quantised ones that are decoded before that pass, in a window around, at a few qualities.
    """
    kernel, channels = network.config.direct_kernel, gain.shape[1]
    crops = Crops(latents, config)
    passes = network.config.passes
    masks = torch.from_numpy(pass_masks(channels, crops.side, crops.side, passes))
    batch = crops.batch(SOLVER_BATCH, SOLVER_CROPS)
    spread = deviations(latents).clamp(min=1e-6)[:, None, None]
    group = torch.arange(channels) * GROUPS // channels
    for k in range(1, passes):
        known = masks[:k].any(0)
        columns, truths = [], []
        for part, quality in zip(batch.chunk(len(SOLVER_QUALITIES)), SOLVER_QUALITIES, strict=False):
            own = gain[round(2 * quality)][:, None, None]
            rounded = ((part * own).round() / own / spread * known).clamp(-LARGEST_ACTIVATION, LARGEST_ACTIVATION)
            columns.append(F.unfold(rounded, kernel, padding=kernel // 2))
            truths.append((part / spread).flatten(2))
        for index in group.unique():
            members = group == index
            here = masks[k, members][0].flatten()
            x = torch.cat([own[:, :, here].transpose(0, 1).flatten(1) for own in columns], 1).double()
            y = torch.cat([own[:, members][:, :, here].transpose(0, 1).flatten(1) for own in truths], 1).double()
            seen = x.any(1)  # the others are decoded later
            gram = x[seen] @ x[seen].T
            gram.diagonal().add_(SOLVER_RIDGE * x.shape[1])
            solution = torch.zeros(len(y), len(x))
            solution[:, seen] = torch.linalg.solve(gram, x[seen] @ y.T).T.float()
            step = cast(ContextPass, network.passes[k])
            assert step.direct is not None and step.head.bias is not None
            step.direct.weight[members] = solution.view(-1, channels, kernel, kernel)
            left = (y.float() - solution @ x.float()).std(1).clamp(min=0.02)
            step.head.bias[channels:][members] = left.log() / SCALE_RATIO

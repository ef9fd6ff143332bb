"""Muon: momentum whose update of each matrix is made orthogonal (Jordan et al., 2024); convolutions count as matrices."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Newton–Schulz iteration on `[N, rows, columns]`, rows <= columns: singular values go to about one.

    Each step multiplies by a polynomial of the Gram matrix, and these commute: so the steps are taken on Gram matrices, which
    are smaller than the matrices where these are wide, and their product is applied once. That wants float32.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.float()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    gram = x @ x.mT
    once = torch.eye(gram.shape[-1], device=x.device).expand_as(gram)
    product = once
    for _ in range(steps):
        step = torch.baddbmm(a * once + b * gram, gram, gram, alpha=c)
        product = step @ product
        gram = step @ gram @ step
    return (product @ x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """For weights of two or more dimensions, seen as `[out, the rest]`; the rest of a model wants AdamW.

    The update has the size of AdamW's (root mean square 0.2; Liu et al., 2025), so that both share a learning rate.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"]
                momentum.lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(momentum, group["momentum"]).flatten(1)
                turned = update if update.shape[0] <= update.shape[1] else update.T
                shapes.setdefault((turned.shape[0], turned.shape[1]), []).append((parameter, turned))
            for (rows, columns), members in shapes.items():
                updates = orthogonalise(torch.stack([turned for _, turned in members]))
                scale = 0.2 * max(rows, columns) ** 0.5
                for (parameter, _), update in zip(members, updates, strict=True):
                    matched = update if parameter.shape[0] == rows and parameter[0].numel() == columns else update.T
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(matched.reshape(parameter.shape), alpha=-group["lr"] * scale)

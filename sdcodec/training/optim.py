"""Optimisers: Muon for matrices, AdamW for the rest, and one schedule for both.

Muon: momentum whose update of each matrix is made orthogonal (Jordan et al., 2024); convolutions count as matrices.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdcodec.training.checkpoint import check_like, damaged, same

BETAS = (0.9, 0.99)  # of AdamW


def orthogonalise(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Move the singular values of `[N, rows, columns]`, rows <= columns, to about one.

    Each Newton–Schulz iteration multiplies by a polynomial of the Gram matrix, and these commute: so they are taken
    on Gram matrices, which are smaller than wide matrices, and their product is applied once. That needs float32.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.float()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    gram = x @ x.mT
    once = torch.eye(gram.shape[-1], device=x.device).expand_as(gram)
    product = once
    for _ in range(iterations):
        step = torch.baddbmm(a * once + b * gram, gram, gram, alpha=c)
        product = step @ product
        gram = step @ gram @ step
    return (product @ x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for weights of two or more dimensions, seen as `[out, the rest]`.

    Other weights need AdamW. The update has the size of AdamW's (root mean square 0.2; Liu et al., 2025), so that
    both share a learning rate.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the parameters by their gradients."""
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
                    if group["weight_decay"]:
                        parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(matched.reshape(parameter.shape) * (group["lr"] * scale))


def rate_factor(begun: float, left: float, warmup: float, decay: float) -> float:
    """Return the factor on a learning rate: up over `warmup`, 1, down over `decay`.

    `begun`: the part of the run that has begun; `left`: the part to come; the present step counts in both. All four
    in steps, or all in shares of the run.
    """
    rise = min(1.0, begun / warmup) if warmup > 0 else 1.0
    fall = min(1.0, left / decay) if decay > 0 else 1.0
    return rise * max(0.0, fall)


class Optimisers:
    """Muon for matrices and AdamW for the rest, with a common factor on their rates."""

    def __init__(
        self,
        matrices: list[Tensor],
        rest: list[Tensor] | list[dict[str, Any]],
        learning_rate: float,
        weight_decay: float = 0.0,
    ) -> None:
        """Build both.

        `rest`: parameters, or groups of them, as torch's optimisers take; a group's `lr` overrides `learning_rate`.
        """
        self._all: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, learning_rate, betas=BETAS, weight_decay=weight_decay)
        ]
        if matrices:
            self._all.append(Muon(matrices, learning_rate, weight_decay=weight_decay))
        self._rates = [[float(group["lr"]) for group in optimiser.param_groups] for optimiser in self._all]
        groups = [group for optimiser in self._all for group in optimiser.param_groups]
        on_cuda = [parameter.device for group in groups for parameter in group["params"] if parameter.is_cuda]
        if on_cuda:  # a recorded step reads its rates from fixed tensors (`sdcodec.training.recording`)
            for group in groups:
                group["lr"] = torch.tensor(group["lr"], device=on_cuda[0])
                if "capturable" in group:  # required of all groups, also of one without parameters
                    group["capturable"] = True

    def zero_grad(self) -> None:
        """Delete all gradients."""
        for optimiser in self._all:
            optimiser.zero_grad(set_to_none=True)

    def set_rate(self, factor: float) -> None:
        """Set the factor on the learning rates of the next steps."""
        for optimiser, rates in zip(self._all, self._rates, strict=True):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate * factor)
                else:
                    group["lr"] = rate * factor

    def step(self, counts: Tensor | None = None) -> None:
        """Update the parameters by their gradients, unless the tensor `counts` is false.

        On CUDA nothing waits for `counts`: gradients have to be 0 then, and only the moments decay.
        """
        groups = [group for optimiser in self._all for group in optimiser.param_groups]
        if counts is not None and isinstance(groups[0]["lr"], Tensor):
            for group in groups:
                group["lr"].mul_(counts)
        elif counts is not None and not bool(counts):
            return
        for optimiser in self._all:
            optimiser.step()

    def state(self) -> list[dict[str, Any]]:
        """Return the state for a checkpoint.

        Learning rates are those of the configuration.
        """
        return [optimiser.state_dict() for optimiser in self._all]

    def check(self, path: Path, state: Any) -> None:
        """Raise TrainingError unless a state of the checkpoint `path` fits."""
        if not isinstance(state, list) or len(state) != len(self._all):
            raise damaged(path, "its optimisers are others")
        for optimiser, saved in zip(self._all, state, strict=True):
            parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
            moments = ("momentum",) if isinstance(optimiser, Muon) else ("exp_avg", "exp_avg_sq")
            if not isinstance(saved, dict) or not isinstance(found := saved.get("state"), dict):
                raise damaged(path, "an optimiser has no state")
            groups = saved.get("param_groups")
            own = [group["params"] for group in optimiser.state_dict()["param_groups"]]
            if not isinstance(groups, list) or not same([isinstance(g, dict) and g.get("params") for g in groups], own):
                raise damaged(path, "an optimiser has other parameters")
            for number, values in found.items():
                if not isinstance(number, int) or not 0 <= number < len(parameters):
                    raise damaged(path, "an optimiser has other parameters")
                wanted: dict[str, Tensor] = dict.fromkeys(moments, parameters[number].detach())
                if not isinstance(optimiser, Muon):
                    wanted["step"] = torch.zeros(())
                check_like(path, "a state of an optimiser", values, wanted)

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Restore the checked state of a checkpoint.

        Settings stay those of the configuration.
        """
        for optimiser, saved in zip(self._all, state, strict=True):
            # The checkpoint's own settings may be of another device.
            groups = optimiser.state_dict()["param_groups"]
            optimiser.load_state_dict({"state": saved["state"], "param_groups": groups})

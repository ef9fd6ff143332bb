"""Damaged files: blocks that are lost, and what is filled in."""

import numpy as np
import pytest
import torch

import sdcodec
from conftest import photograph
from sdcodec.concealment import conceal
from sdcodec.container import Container
from sdcodec.grid import decode

SIZE = 2000, 1504  # 4 x 3 blocks


def test_gaps_are_filled_smoothly_and_the_rest_stays():
    y, x = torch.meshgrid(torch.arange(40), torch.arange(52), indexing="ij")
    values = torch.stack([10 * x + 3 * y, 400 - 5 * y]).to(torch.int32)
    kept = values.clone()
    lost = [(slice(8, 20), slice(8, 24)), (slice(30, 40), slice(44, 52))]
    for rows, columns in lost:
        values[:, rows, columns] = -9999
    conceal(values, lost)
    known = torch.ones(40, 52, dtype=torch.bool)
    for rows, columns in lost:
        known[rows, columns] = False
    assert torch.equal(values[:, known], kept[:, known])
    assert (values[:, 8:20, 8:24] - kept[:, 8:20, 8:24]).abs().max() < 60
    assert values[:, ~known].min() >= 0
    assert values[:, ~known].max() <= kept.max()

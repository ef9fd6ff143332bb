"""Codec of `sdcodec eval` for CompressAI's zoo; see docs/evaluation.md.

It needs `pip install compressai`. The file is big-endian: the quality (one byte); height and width of the picture and of
the last grid of latents (two bytes each); the number of strings (one byte); each string after its length (four bytes).
"""

from __future__ import annotations

import struct
from functools import lru_cache

import numpy as np
import torch
from compressai.zoo import image_models

HEAD = struct.Struct(">HHHHB")
SIDE = 64  # the models need sides that are multiples of it


class CompressAI:
    """Codec with the zoo's qualities, a checkpoint each.

    highest: largest quality, 8, or 6 for models with attention.
    """

    name, extension = "CompressAI", "cai"

    def __init__(self, model="mbt2018-mean", metric="mse", highest=8, pretrained=True, device="cpu"):
        if model not in image_models:
            raise ValueError(f"the zoo has no model {model!r}; choose from {', '.join(sorted(image_models))}")
        self.settings = {"model": model, "metric": metric, "pretrained": pretrained, "device": device}
        self.qualities = tuple(range(1, highest + 1))
        self._network = lru_cache(maxsize=2)(self._load)

    def _load(self, quality):
        make = image_models[self.settings["model"]]
        network = make(quality=quality, metric=self.settings["metric"], pretrained=self.settings["pretrained"])
        network.update()
        return network.eval().to(self.settings["device"])

    @torch.inference_mode()
    def encode(self, pixels, quality):
        height, width = pixels.shape[:2]
        padded = np.pad(pixels, ((0, -height % SIDE), (0, -width % SIDE), (0, 0)), mode="edge")
        images = torch.from_numpy(padded).permute(2, 0, 1)[None].float().to(self.settings["device"]) / 255
        coded = self._network(int(quality)).compress(images)
        strings = [string for (string,) in coded["strings"]]
        data = bytes([int(quality)]) + HEAD.pack(height, width, *coded["shape"], len(strings))
        return data + b"".join(struct.pack(">I", len(string)) + string for string in strings)

    @torch.inference_mode()
    def decode(self, data):
        height, width, *shape, count = HEAD.unpack_from(data, 1)
        strings, place = [], 1 + HEAD.size
        for _ in range(count):
            (length,) = struct.unpack_from(">I", data, place)
            strings.append([data[place + 4 : place + 4 + length]])
            place += 4 + length
        images = self._network(data[0]).decompress(strings, shape)["x_hat"]
        pixels = images[0].clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        return pixels[:height, :width]

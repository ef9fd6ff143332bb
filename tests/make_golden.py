"""Make the golden files of the prior that encodes by default, when it is new.

    python tests/make_golden.py

Those of earlier priors stay permanently.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

import sdcodec
from sdcodec.bundles import store

GOLDEN = Path(__file__).parent / "golden"
PHOTOGRAPH = Path(__file__).parents[1] / "images" / "raccoon.png"


def main() -> None:
    codec = sdcodec.Codec(store.DEFAULT, device="cpu", precision="float32")
    with Image.open(PHOTOGRAPH) as image:
        photo = image.convert("RGB")
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    alpha = photo.crop((200, 150, 300, 220)).convert("RGBA")
    alpha.putalpha(photo.crop((0, 0, 100, 70)).convert("L"))
    files = {
        "photo-5000": codec.encode(photo, target_bytes=5000),
        "photo-lowest": codec.encode(photo.resize((96, 80)), quality=0),
        "photo-highest": codec.encode(photo.crop((200, 150, 264, 214)), quality=100),
        "noise-escapes": codec.encode(noise, quality=97.5),
        "one-pixel": codec.encode(photo.crop((250, 200, 251, 201)), quality=50),
        "two-blocks": codec.encode(photo.resize((544, 96)), quality=20),
        "alpha": codec.encode(alpha, quality=40),
    }
    folder = GOLDEN / f"{store.DEFAULT}-{codec.fingerprint.hex()}"
    folder.mkdir()
    digests = {}
    for name, encoded in sorted(files.items()):
        (folder / f"{name}.sdc").write_bytes(encoded.data)
        digests[f"{name}.sdc"] = codec.symbols_sha256(encoded.data)
        print(f"{name}: {encoded.width} x {encoded.height}, {len(encoded.data)} bytes")
    (folder / "digests.json").write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

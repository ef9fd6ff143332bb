"""Which device and which precision a machine is good at."""

from __future__ import annotations

import torch

from sdcodec.errors import OptionError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def device(name: str = "auto") -> torch.device:
    """`auto` prefers CUDA, then MPS, then the CPU. Raises OptionError for a device that is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(name)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(f"device {name!r} is not available here; choose cpu or auto") from error
    return chosen


def dtype(precision: str, on: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the hardware is fast at it, float32 elsewhere. Raises OptionError for an unknown name."""
    if precision != "auto":
        if precision not in DTYPES:
            raise OptionError(f"precision {precision!r} is unknown; choose auto, {', '.join(DTYPES)}")
        return DTYPES[precision]
    if on.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if on.type == "cpu" and _cpu_has_bfloat16() else torch.float32


def _cpu_has_bfloat16() -> bool:
    """AVX-512 BF16 or AMX: everything else emulates it, slower than float32."""
    features = torch.backends.cpu.get_cpu_capability()
    if features not in ("AVX512", "AVX512_BF16", "AMX"):
        return False
    probe: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(probe.get("avx512_bf16") or probe.get("amx_bf16"))

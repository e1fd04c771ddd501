"""Which device and number format a stream runs on."""

from __future__ import annotations

import torch

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class DeviceError(Exception):
    """A device that was asked for and is not there, or cannot do what was asked; one line."""


def resolve_device(name: str) -> torch.device:
    """`auto` is the first CUDA GPU, else the CPU; otherwise PyTorch's own names: `cpu`, `cuda`, `cuda:1`.

    Raises DeviceError where there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"device is {name!r}; it must be auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"device is {name!r}; it must be auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            built = "has no CUDA support" if torch.version.cuda is None else f"is built for CUDA {torch.version.cuda}"
            raise DeviceError(
                f"device {name!r} was asked for, but PyTorch {torch.__version__} ({built}) finds no CUDA GPU; "
                "use device auto or cpu, or install a CUDA build of PyTorch and its driver"
            )
        if device.index is not None and device.index >= torch.cuda.device_count():
            raise DeviceError(f"device {name!r} was asked for, but there are {torch.cuda.device_count()} CUDA GPUs")
    return device


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """`auto` is float16 on a GPU and float32 on a CPU. Raises DeviceError for another name, and float16 on a CPU."""
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in PRECISIONS:
        raise DeviceError(f"precision is {name!r}; it must be auto or one of {', '.join(PRECISIONS)}")
    if name == "float16" and device.type == "cpu":
        raise DeviceError("precision float16 needs a GPU; on a CPU use float32 or bfloat16")
    return PRECISIONS[name]

"""What a time depends on beside the code: machine, versions, threads."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from stmem_ros.openmp import waiting


def environment(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """JSON-ready. The load average is that of the last minute, so of what else ran as this began."""
    names = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "device": str(device),
        "device_name": device_name(device),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "openmp": waiting(),
        "dtype": str(dtype).removeprefix("torch."),
        "load_average": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    if device.type == "cpu":
        names["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    return names


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(named, "") or platform.processor() or platform.machine()


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()

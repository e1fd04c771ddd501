"""Peak memory of one way, told by a process that does nothing else.

`python -m stmem_ros.benchmark.memory` reads what to run as JSON and prints bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import json
import resource
import subprocess
import sys
from pathlib import Path

import torch

from stmem_ros.benchmark.subject import BenchmarkError, Subject
from stmem_ros.benchmark.ways import Comparison, Setting
from stmem_ros.files import one_line

FRAMES = 3


def peak_memory(name: str, subject: Subject, setting: Setting) -> int:
    """Bytes while the way `name` labels frames. Raises BenchmarkError where its process fails.

    On a GPU: what tensors took there, weights included. On a CPU: the resident memory of the whole process.
    """
    order = {"name": name, "subject": subject.to_dict(), "setting": dataclasses.asdict(setting)}
    command = [sys.executable, "-m", "stmem_ros.benchmark.memory"]
    # In a session of its own, so that Ctrl-C ends it without words.
    done = subprocess.run(command, input=json.dumps(order), capture_output=True, text=True, start_new_session=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}, out of memory?"]
        raise BenchmarkError(f"memory of {name} could not be measured: {last[0]}")
    return int(done.stdout)


def peak_here(name: str, subject: Subject, setting: Setting) -> int:
    """As `peak_memory`, in this process."""
    if setting.threads:
        torch.set_num_threads(setting.threads)
    comparison = Comparison(subject, setting, [name])
    way, scene, device = comparison.ways[name], comparison.scene, comparison.device
    del comparison
    forget_peak(device)
    with torch.inference_mode():
        for number in range(FRAMES):
            way(scene(number))
    return peak(device)


def forget_peak(device: torch.device) -> None:
    """Give back what loading took, and let the peak begin here."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    # Where there is neither glibc nor /proc, the peak is that of the whole life.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    order = json.load(sys.stdin)
    setting = order["setting"]
    sizes = {key: tuple(setting[key]) for key in ("size", "image_size")}
    try:
        print(peak_here(order["name"], Subject.from_dict(order["subject"]), Setting(**setting | sizes)))
    except Exception as error:
        print(one_line(error) or type(error).__name__, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How a program of this package begins: what it is called, and Ctrl-C while its imports still run."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

# As shells have it: 128 and the number of SIGINT.
STOPPED = 130
PACKAGES = ("stmem_ros", "training")


def called(module: str) -> str:
    """What the user typed to run a module: `ros2 run stmem_ros bag`, `bag` or `python -m stmem_ros.bag`.

    Modules are named as the programs that setup.py makes of them.
    """
    script = Path(sys.argv[0])
    if script.name != module.rpartition(".")[2]:
        return f"python -m {module}"
    return f"ros2 run stmem_ros {script.name}" if _installed(script) else script.name


def _installed(script: Path) -> bool:
    return script.parts[-3:-1] == ("lib", "stmem_ros")


def guard_imports() -> None:
    """Until `begin`, Ctrl-C ends this process with one line and status 130, if it is a program of ours that starts.

    PyTorch and ROS 2 take seconds to import, and Ctrl-C would leave a traceback of a hundred lines. Nothing is to be
    tidied up meanwhile. In any other process, such as one that uses the package as a library, this does nothing.
    """
    if _starting():
        signal.signal(signal.SIGINT, _stop)


def begin() -> None:
    """The imports are done: from here on Ctrl-C is a KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) is _stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _starting() -> str:
    """The name of the program that this process is about to run; empty if it is none of ours."""
    first = sys.argv[0] if sys.argv else ""
    # `python -m` says so while it looks for the module; a process of a pool has its parent's arguments.
    if first == "-m" and "-m" in sys.orig_argv:
        module = sys.orig_argv[sys.orig_argv.index("-m") + 1]
        return module.rpartition(".")[2] if module.partition(".")[0] in PACKAGES else ""
    if _installed(Path(first)) and "--multiprocessing-fork" not in sys.orig_argv:
        return Path(first).name
    return ""


def _stop(_number: int, _frame: FrameType | None) -> None:
    # Later `python -m` replaces its `-m` by the module's file.
    name = _starting() or Path(sys.argv[0]).stem
    if name == "__main__":
        name = Path(sys.argv[0]).parent.name
    os.write(2, f"{name}: stopped\n".encode())
    os._exit(STOPPED)

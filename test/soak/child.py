"""Runs a Python module as a process that ends with the one that started it, however that ended.

`python -m soak.child PID MODULE [ARGUMENT ...]`: PID is the process that starts it.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

# Of prctl(2).
PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, module = int(sys.argv[1]), sys.argv[2]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM)):
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        # It ended before it could be asked for.
        sys.exit(1)
    sys.argv[1:] = sys.argv[3:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

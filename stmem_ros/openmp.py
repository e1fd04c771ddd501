"""How the threads of PyTorch's OpenMP wait for each other, chosen before PyTorch is imported.

By default they spin for milliseconds. Beside another busy process the one that is waited for then has no core, and a
frame takes several times as long.
"""

from __future__ import annotations

import os
import sys

# A thousand turns are some tens of microseconds, as long as the gap between two parts of a layer: alone little is lost.
# libgomp (PyTorch's wheels) goes by the count; Intel's and LLVM's runtime (conda) knows the policy alone.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
# Who has set one of these has chosen.
CHOSEN_BY = (*WAITING, "KMP_BLOCKTIME")


def wait_without_spinning() -> None:
    """Set WAITING in this process's environment, for itself and for what it starts; what the user has set stays.

    Nothing if PyTorch has been imported, which has read it by then, or in the process of a launch file, whose
    environment goes to programs that are not of this package.
    """
    if {"torch", "launch"} & sys.modules.keys() or any(name in os.environ for name in CHOSEN_BY):
        return
    os.environ.update(WAITING)


def waiting() -> dict[str, str]:
    """What the environment says of it now, by the variable's name."""
    return {name: os.environ[name] for name in CHOSEN_BY if name in os.environ}

"""Whether cv_bridge works here: found out in a process of its own, before this one uses it.

Compiled builds for NumPy 1 crash their process beside NumPy 2 (vision_opencv#535), and no `try` catches that.
"""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys

import numpy as np

LONGEST_TRIAL_S = 10

TRIAL = """
import sys
sys.path[:] = {paths!a}
import array, resource, signal, types
# It ends also where nobody waits for it any more, and leaves no core file where it crashes.
signal.alarm({seconds})
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
import cv2
from cv_bridge import CvBridge
data = array.array("B", bytes(12))
image = types.SimpleNamespace(height=2, width=2, encoding="bgr8", is_bigendian=0, step=6, data=data)
CvBridge().imgmsg_to_cv2(image, "rgb8")
"""


@functools.cache
def bridge_failure() -> str:
    """Why cv_bridge cannot be used, in one line that goes on after `and`; empty where it can.

    The first call takes as long as an import does, LONGEST_TRIAL_S seconds at most; its answer is kept.
    """
    if importlib.util.find_spec("cv_bridge") is None:
        return "cv_bridge, which knows more of them, is not installed"
    broken = "cv_bridge does not work here: the process that tried it"
    paths = [path for path in sys.path if isinstance(path, str)]
    try:
        tried = subprocess.run(
            [sys.executable, "-c", TRIAL.format(paths=paths, seconds=LONGEST_TRIAL_S + 1)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=LONGEST_TRIAL_S,
        )
    except subprocess.TimeoutExpired:
        return f"{broken} did not end within {LONGEST_TRIAL_S} seconds"
    except OSError as error:
        return f"{broken} could not be started ({error.strerror})"
    if tried.returncode == 0:
        return ""
    said = "".join(tried.stderr.strip().splitlines()[-1:])[:200]
    how = f"ended with signal {-tried.returncode}" if tried.returncode < 0 else f"failed ({said})"
    if int(np.__version__.partition(".")[0]) >= 2 and (tried.returncode < 0 or "numpy" in said):
        how += f"; beside NumPy {np.__version__}, install a cv_bridge built for NumPy 2, or numpy<2"
    return f"{broken} {how}"

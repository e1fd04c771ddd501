"""DDS domains of the tests' own."""

from __future__ import annotations

import os


def own_domain(number: int) -> int:
    """A domain from 1 to 100 that no other worker of this run uses, another one for another number."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = 100 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return 1 + worker * share + (os.getppid() + number) % share

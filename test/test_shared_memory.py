"""Tests leave nothing in shared memory, and take nothing from whoever else uses it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from shared_memory import remove_left


def test_what_nobody_holds_is_removed_and_nothing_else(tmp_path: Path) -> None:
    names = {
        "left": ("fastrtps_1", "fastrtps_1_el", "fastrtps_port7", "fastrtps_port7_el", "sem.fastrtps_port7_mutex"),
        "held": ("fastrtps_2", "fastrtps_2_el"),
        "older": ("fastrtps_3", "fastrtps_3_el"),
        "others": ("lttng-ust-wait-6",),
    }
    for name in sum(names.values(), ()):
        (tmp_path / name).touch()
    for name in names["older"]:
        os.utime(tmp_path / name, (1000, 1000))
    with (tmp_path / "fastrtps_2_el").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        remove_left(2000, tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*names["held"], *names["older"], *names["others"]}

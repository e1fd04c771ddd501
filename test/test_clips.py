"""Which frames stand beside a frame in its window."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.data.clips import WindowConfig, Windows
from training.data.dataset import LabelledFrame, load_spec

NUMBERS = {"a": [0, 2, 4, 40, 42], "b": [1]}


def windows(tmp_path: Path, frame_rate: float | None = 30, **settings: float) -> Windows:
    text = """\
classes: [{name: ground, color: [0, 0, 0]}]
frames: "{split}"
labels: "{split}annot"
name_pattern: '(?P<sequence>[a-z])(?P<frame>[0-9]+)'
"""
    path = tmp_path / "data.yaml"
    path.write_text(text + (f"frame_rate: {frame_rate}\n" if frame_rate else ""))
    images = {sequence: {n: Path(f"{sequence}{n}") for n in numbers} for sequence, numbers in NUMBERS.items()}
    return Windows(images, load_spec(path), WindowConfig(**settings))  # type: ignore[arg-type]


def around(windows: Windows, number: int, query: int = 1, length: int = 3, sequence: str = "a") -> list[str]:
    frame = LabelledFrame(sequence, number, Path(f"{sequence}{number}"), Path("label"))
    return [str(path) for path in windows.around(frame, length, query)]


def test_neighbours_are_the_frames_before_and_after(tmp_path: Path) -> None:
    assert around(windows(tmp_path), 2) == ["a0", "a2", "a4"]


def test_a_causal_window_ends_with_its_frame(tmp_path: Path) -> None:
    assert around(windows(tmp_path), 4, query=2) == ["a0", "a2", "a4"]


def test_missing_neighbours_are_the_nearest_frame_again(tmp_path: Path) -> None:
    assert around(windows(tmp_path), 0) == ["a0", "a0", "a2"]
    assert around(windows(tmp_path), 2, query=2) == ["a0", "a0", "a2"]
    assert around(windows(tmp_path), 1, sequence="b") == ["b1", "b1", "b1"]


def test_a_frame_beyond_the_reach_is_no_neighbour(tmp_path: Path) -> None:
    # 36 numbers at 30 Hz are 1.2 s.
    assert around(windows(tmp_path), 4) == ["a2", "a4", "a4"]
    assert around(windows(tmp_path, reach=1.2), 4) == ["a2", "a4", "a40"]
    assert around(windows(tmp_path, frame_rate=None), 4) == ["a2", "a4", "a40"]


def test_the_offset_is_the_least_distance_between_neighbours(tmp_path: Path) -> None:
    assert around(windows(tmp_path, offset=3), 4) == ["a0", "a4", "a4"]
    assert around(windows(tmp_path, offset=2), 4, length=5, query=4) == ["a0", "a0", "a0", "a2", "a4"]


@pytest.mark.parametrize(("field", "value"), [("offset", 0), ("reach", 0.0), ("reach", float("nan"))])
def test_impossible_settings_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"window.{field}"):
        WindowConfig(**{field: value})  # type: ignore[arg-type]


def test_a_place_outside_the_window_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="query is 3"):
        around(windows(tmp_path), 2, query=3)

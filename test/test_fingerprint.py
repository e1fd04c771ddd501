"""Fingerprints of data: anything that is read and differs shows, and is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.data import fingerprint
from training.data.clips import WindowConfig, Windows
from training.data.dataset import DatasetSpec, LabelledFrame, list_frames, list_images, load_spec
from training.data.fingerprint import Digests, Fingerprint, describe, of_frames, of_windows


@pytest.fixture
def spec(make_shapes: Callable[..., Path], tmp_path: Path) -> DatasetSpec:
    return load_spec(make_shapes(tmp_path, {"train": 4}, size=(64, 64)))


@pytest.fixture
def frames(spec: DatasetSpec, tmp_path: Path) -> list[LabelledFrame]:
    return list_frames(spec, tmp_path, "train")


def seen(frames: list[LabelledFrame]) -> Fingerprint:
    return of_frames(frames, Digests())


def flip_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["image", "labels"])
def test_a_file_that_changes_shows_and_is_named(frames: list[LabelledFrame], kind: str) -> None:
    before = seen(frames)
    assert before.summary() == seen(frames).summary()
    assert (before.summary()["frames"], before.summary()["sequences"]) == (4, ["drive"])
    assert seen(frames).difference(before) == ""
    path = getattr(frames[2], kind)
    flip_middle(path)
    assert seen(frames).summary()["sha256"] != before.summary()["sha256"]
    assert seen(frames).difference(before) == f"{path} has changed"


def test_a_frame_that_comes_or_goes_is_named(frames: list[LabelledFrame]) -> None:
    few, all_ = seen(frames[:3]), seen(frames)
    assert all_.difference(few) == f"{frames[3].image} (frame 3 of drive) is new"
    assert few.difference(all_) == f"{frames[3].image} (frame 3 of drive) is gone"


def test_data_may_be_moved(frames: list[LabelledFrame], spec: DatasetSpec, tmp_path: Path) -> None:
    before = seen(frames).summary()
    (tmp_path / "moved").mkdir()
    for folder in ("train", "trainannot"):
        (tmp_path / folder).rename(tmp_path / "moved" / folder)
    assert seen(list_frames(spec, tmp_path / "moved", "train")).summary() == before


def test_it_comes_back_from_a_file(frames: list[LabelledFrame]) -> None:
    before = seen(frames)
    assert Fingerprint.from_list(json.loads(json.dumps(before.to_list()))) == before


def test_of_windows_it_has_the_neighbours_too(spec: DatasetSpec, tmp_path: Path, frames: list[LabelledFrame]) -> None:
    windows = Windows(list_images(spec, tmp_path, "train"), spec, WindowConfig())
    before = of_windows(frames[:1], windows, 3, (1, 2), Digests())
    flip_middle(frames[1].image)
    after = of_windows(frames[:1], windows, 3, (1, 2), Digests())
    assert after.difference(before) == f"{frames[1].image} has changed"
    wide = Windows(list_images(spec, tmp_path, "train"), spec, WindowConfig(offset=2))
    assert "frame 0 of drive" in of_windows(frames[:1], wide, 3, (1, 2), Digests()).difference(after)


def test_what_the_yaml_says_of_labels_and_time_is_plain_data(spec: DatasetSpec, tmp_path: Path) -> None:
    before = describe(spec)
    assert json.loads(json.dumps(before)) == before
    text = (tmp_path / "shapes.yaml").read_text()
    for change in (
        text.replace("name: disc", "name: x").replace("name: box", "name: disc").replace("name: x", "name: box"),
        text.replace("void_ids: [9]", "void_ids: [9, 7]"),
        text.replace("[220, 40, 40]", "[221, 40, 40]"),
        text + "frame_rate: 15\n",
    ):
        assert change != text
        (tmp_path / "shapes.yaml").write_text(change)
        assert describe(load_spec(tmp_path / "shapes.yaml")) != before


def test_of_a_large_png_it_takes_size_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PNG ends with a checksum of its pixels: one pixel of another value shows, wherever it lies."""
    monkeypatch.setattr(fingerprint, "HASHED_WHOLE", 1000)
    monkeypatch.setattr(fingerprint, "HASHED_END", 400)
    path, pixels = tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8)
    cv2.imwrite(str(path), pixels)
    before = Digests().of(path)
    pixels[48, 64] ^= 1
    cv2.imwrite(str(path), pixels)
    after = Digests().of(path)
    assert after != before
    # What is not read is not known: that is the price.
    flip_middle(path)
    assert Digests().of(path) == after


@pytest.mark.parametrize("ending", [".bmp", ".jpg", ".webp"])
def test_files_without_a_checksum_at_their_end_are_hashed_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(fingerprint, "HASHED_WHOLE", 1000)
    monkeypatch.setattr(fingerprint, "HASHED_END", 400)
    path = tmp_path / f"a{ending}"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8))
    before = Digests().of(path)
    flip_middle(path)
    assert Digests().of(path) != before

"""The synthetic street: a data set without files that every stage can learn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.data.dataset import class_pixels, list_frames, load_spec, read_frame
from training.synthetic import CLASSES, NAMES, StreetConfig, main, street, write_dataset


def test_the_same_seed_draws_the_same_street() -> None:
    first, again, other = (list(street(StreetConfig(frames=3), seed)) for seed in (1, 1, 2))
    for (image, labels), (same_image, same_labels) in zip(first, again, strict=True):
        np.testing.assert_array_equal(image, same_image)
        np.testing.assert_array_equal(labels, same_labels)
    assert not np.array_equal(first[0][1], other[0][1])


def test_the_background_pans_while_cars_go_their_own_way() -> None:
    labels = [truth for _, truth in street(StreetConfig(frames=12), 3)]
    sky = NAMES.index("sky")
    assert (labels[0] != labels[-1]).mean() > 0.02
    # What is far above every house stays sky.
    assert (labels[0][:5] == sky).all() and (labels[-1][:5] == sky).all()


def test_without_noise_a_pixels_colour_is_near_its_classs() -> None:
    image, labels = next(street(StreetConfig(noise=0.0, flicker=0.0), 0))
    colors = np.array(list(CLASSES.values()), float)
    assert np.abs(image.mean((0, 1)) - colors[labels].mean((0, 1))).max() < 5


def test_noise_differs_from_frame_to_frame() -> None:
    (first, _), (second, _) = street(StreetConfig(frames=2, flicker=0.0), 0)
    assert np.abs(first.astype(float) - second)[:5].mean() > 20


def test_a_written_street_is_a_data_set_with_every_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--train", "2", "--val", "1", "--frames", "3"]) == 0
    spec = load_spec(tmp_path / "street.yaml")
    assert str(tmp_path / "street.yaml") in capsys.readouterr().out
    frames = list_frames(spec, tmp_path, "train")
    assert len(frames) == 6 and len({frame.sequence for frame in frames}) == 2
    assert len(list_frames(spec, tmp_path, "val")) == 3
    assert (class_pixels(frames, spec).sum(0) > 0).all()
    image, labels = read_frame(frames[0], spec)
    assert image.shape == (96, 128, 3) and labels.shape == (96, 128)


def test_splits_show_different_streets(tmp_path: Path) -> None:
    spec = load_spec(write_dataset(tmp_path, StreetConfig(frames=1), {"train": 1, "val": 1}))
    (train,), (val,) = list_frames(spec, tmp_path, "train"), list_frames(spec, tmp_path, "val")
    assert not np.array_equal(read_frame(train, spec)[1], read_frame(val, spec)[1])

"""Random crops: an image and its labels move together, and a seed tells which way."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from stmem_ros.labels import IGNORE_INDEX
from training.data.augment import AugmentConfig, crop_matrix, paste_classes, random_crop

# Moves, and leaves the look of the image alone.
MOVES = AugmentConfig(crop=(48, 64), scale=(0.5, 2.0), color=0.0, blur=0.0, noise=0.0)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def fields_image(size: tuple[int, int] = (60, 90)) -> tuple[np.ndarray, np.ndarray]:
    """Fields of 30 x 30 pixels; each pixel's three values are its label, 10 to 19 or so."""
    rows, columns = np.indices(size) // 30
    labels = (10 + 3 * rows + columns).astype(np.uint8)
    return np.repeat(labels[..., None], 3, -1), labels


@pytest.mark.parametrize("seed", range(12))
def test_image_and_labels_move_together(seed: int) -> None:
    image, labels = random_crop(*fields_image(), MOVES, rng(seed))
    assert image.shape == (48, 64, 3)
    assert labels.shape == (48, 64)
    assert image.dtype == labels.dtype == np.uint8
    inside = labels != IGNORE_INDEX
    # Away from the edges of fields, where the image blends two, value and label agree.
    differs = np.abs(image[..., 0].astype(int) - labels) > 1
    edge = np.zeros_like(inside)
    for axis in (0, 1):
        for shift in (-2, -1, 1, 2):
            edge |= np.roll(labels, shift, axis) != labels
    assert not (differs & inside & ~edge).any()
    assert (inside & ~edge).any()


@pytest.mark.parametrize("seed", range(5))
def test_every_label_in_a_crop_is_one_of_the_image(seed: int) -> None:
    image, labels = fields_image()
    _, cropped = random_crop(image, labels, MOVES, rng(seed))
    assert set(np.unique(cropped)) <= {*np.unique(labels), IGNORE_INDEX}


def test_pasted_classes_bring_their_pixels_and_nothing_of_the_void() -> None:
    image, labels = fields_image()
    other = image + 100, labels + 100
    other[1][:10] = IGNORE_INDEX
    mixed, mixed_labels = paste_classes((image, labels), other, rng(1))
    pasted = mixed_labels >= 100
    assert 0.2 < pasted.mean() < 0.8
    assert (mixed_labels[~pasted] == labels[~pasted]).all() and (mixed_labels != IGNORE_INDEX).all()
    assert (mixed == mixed_labels[..., None]).all()
    # Whole classes, not pieces of them.
    for label in np.unique(other[1]):
        assert len(np.unique(pasted[other[1] == label])) == 1


def test_outside_the_image_is_black_and_ignored() -> None:
    config = dataclasses.replace(MOVES, crop=(120, 180), scale=(1.0, 1.0))
    image, labels = random_crop(*fields_image((60, 90)), config, rng(0))
    ignored = labels == IGNORE_INDEX
    assert ignored.mean() == pytest.approx(0.75, abs=0.03)
    assert (image[ignored] <= 10).all()


def test_an_image_of_the_crops_size_is_shown_whole() -> None:
    image, labels = fields_image((48, 64))
    config = dataclasses.replace(MOVES, scale=(1.0, 1.0), flip=0.0)
    cropped, cropped_labels = random_crop(image, labels, config, rng(0))
    assert np.array_equal(cropped, image)
    assert np.array_equal(cropped_labels, labels)


def test_a_flip_mirrors_both() -> None:
    image, labels = fields_image((48, 64))
    config = dataclasses.replace(MOVES, scale=(1.0, 1.0), flip=1.0)
    flipped, flipped_labels = random_crop(image, labels, config, rng(0))
    assert np.array_equal(flipped, image[:, ::-1])
    assert np.array_equal(flipped_labels, labels[:, ::-1])


@pytest.mark.parametrize(("size", "crop"), [((64, 128), (48, 96)), ((90, 120), (90, 120)), ((1024, 2048), (768, 1536))])
def test_a_crop_as_large_as_the_zoomed_image_shows_it_whole_flipped_or_not(
    size: tuple[int, int], crop: tuple[int, int]
) -> None:
    """How the paper's images come: at 0.75 of their size, nothing cut off, nothing added, every other one mirrored."""
    image, labels = fields_image(size)
    zoom = crop[0] / size[0]
    config = dataclasses.replace(MOVES, crop=crop, scale=(zoom, zoom), rare_crop=0.0)
    seen = [random_crop(image, labels, config, rng(seed)) for seed in range(6)]
    assert all((cropped != IGNORE_INDEX).all() for _, cropped in seen)
    kinds = {pixels.tobytes(): (pixels, cropped) for pixels, cropped in seen}
    assert len(kinds) == 2
    small = cv2.resize(labels, crop[::-1], interpolation=cv2.INTER_NEAREST)
    edges = [int((cropped != other).sum()) for _, cropped in kinds.values() for other in (small, small[:, ::-1])]
    # One is the resized image and the other its mirror image, but for a pixel where fields meet.
    assert sorted(count > small.size / 10 for count in edges) == [False, False, True, True]


def test_flips_and_zooms_come_as_often_as_asked() -> None:
    _, labels = fields_image()
    random = rng(1)
    matrices = np.array([crop_matrix(labels, MOVES, random) for _ in range(400)])
    assert np.mean(matrices[:, 0, 0] < 0) == pytest.approx(0.5, abs=0.1)
    zooms = matrices[:, 1, 1]
    assert zooms.min() >= 0.5
    assert zooms.max() <= 2.0
    assert np.median(zooms) == pytest.approx(1.0, abs=0.15)


def test_rare_classes_are_shown_more_often() -> None:
    labels = np.zeros((200, 300), np.uint8)
    labels[150:154, 250:254] = 1
    image = np.zeros((200, 300, 3), np.uint8)

    def shown(rare_crop: float) -> float:
        config = dataclasses.replace(MOVES, scale=(1.0, 1.0), rare_crop=rare_crop)
        return float(np.mean([(random_crop(image, labels, config, rng(seed))[1] == 1).any() for seed in range(200)]))

    assert shown(0.0) < 0.2
    assert shown(1.0) == pytest.approx(0.5, abs=0.15)


def test_an_image_without_any_label_can_be_cropped() -> None:
    image, labels = fields_image()
    config = dataclasses.replace(MOVES, rare_crop=1.0)
    assert (random_crop(image, np.full_like(labels, IGNORE_INDEX), config, rng(0))[1] == IGNORE_INDEX).all()


def test_the_same_seed_gives_the_same_crop_and_another_seed_another() -> None:
    image, labels = fields_image()
    config = dataclasses.replace(MOVES, color=0.4, blur=0.5, noise=0.5)
    first, again, other = (random_crop(image, labels, config, rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("seed", range(6))
def test_changing_the_look_leaves_the_labels_alone(seed: int) -> None:
    image, labels = fields_image()
    plain, plain_labels = random_crop(image, labels, MOVES, rng(seed))
    config = dataclasses.replace(MOVES, color=0.4, blur=1.0, noise=1.0)
    changed, changed_labels = random_crop(image, labels, config, rng(seed))
    assert np.array_equal(changed_labels, plain_labels)
    assert not np.array_equal(changed, plain)
    assert changed.dtype == np.uint8


def test_the_image_that_was_given_is_not_touched() -> None:
    image, labels = fields_image()
    before, labels_before = image.copy(), labels.copy()
    random_crop(image, labels, dataclasses.replace(MOVES, color=0.4, blur=1.0, noise=1.0), rng(0))
    assert np.array_equal(image, before)
    assert np.array_equal(labels, labels_before)

"""What the numbers in a label image mean, and how they are coloured."""

from __future__ import annotations

import numpy as np
import pytest

from stmem_ros.labels import IGNORE_INDEX, LabelSet, colorize

LABELS = LabelSet(("road", "car"), ((128, 64, 128), (64, 0, 128)))


def test_each_id_has_its_colour_and_other_ids_are_black() -> None:
    labels = np.array([[0, 1, 2], [254, IGNORE_INDEX, 1]], np.uint8)
    colors = colorize(labels, LABELS.lookup_table())
    road, car, black = [128, 64, 128], [64, 0, 128], [0, 0, 0]
    assert colors.dtype == np.uint8
    assert colors.tolist() == [[road, car, black], [black, black, car]]


def test_colours_can_be_written_into_an_array_that_is_there() -> None:
    labels = np.array([[0, 1]], np.uint8)
    out = np.full((1, 2, 3), 7, np.uint8)
    assert colorize(labels, LABELS.lookup_table(), out) is out
    assert out.tolist() == [[[128, 64, 128], [64, 0, 128]]]


def test_lists_become_what_compares_equal_and_cannot_change() -> None:
    labels = LabelSet(["road", "car"], [[128, 64, 128], [64, 0, 128]])  # type: ignore[arg-type]
    assert labels == LABELS
    assert hash(labels) == hash(LABELS)
    assert len(labels) == 2


def test_255_classes_fit_and_255_stays_ignored() -> None:
    labels = LabelSet(tuple(str(number) for number in range(255)), ((1, 2, 3),) * 255)
    assert labels.lookup_table()[254].tolist() == [1, 2, 3]
    assert labels.lookup_table()[IGNORE_INDEX].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("message", "names", "palette"),
    [
        ("0 classes", (), ()),
        ("256 classes", tuple(map(str, range(256))), ((0, 0, 0),) * 256),
        ("'car' is listed twice", ("car", "road", "car"), ((0, 0, 0),) * 3),
        ("1 colours for 2 classes", ("road", "car"), ((0, 0, 0),)),
        (r"'car' is \[0, 0, 256\]", ("road", "car"), ((0, 0, 0), (0, 0, 256))),
        (r"'car' is \[0, -1, 0\]", ("road", "car"), ((0, 0, 0), (0, -1, 0))),
        (r"'road' is \[0, 0\]", ("road", "car"), ((0, 0), (0, 0, 0))),
    ],
)
def test_a_wrong_list_of_classes_says_what_is_wrong(message: str, names: tuple, palette: tuple) -> None:
    with pytest.raises(ValueError, match=message):
        LabelSet(names, palette)

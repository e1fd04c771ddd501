"""Images as files: what could not be written is said, and never half there."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from stmem_ros.encode import EncodeError, encode_image, write_image

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


@pytest.mark.parametrize("image", [COLOURS, COLOURS[..., 0]], ids=["rgb", "grey"])
def test_a_png_has_every_pixel_as_it_was(tmp_path: Path, image: np.ndarray) -> None:
    path = tmp_path / "new" / "folder" / "image.png"
    write_image(path, image)
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(found if image.ndim == 2 else found[..., ::-1], image)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("survive_power_loss", [True, False])
def test_a_place_that_cannot_be_written_to_is_named_and_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survive_power_loss: bool
) -> None:
    path = tmp_path / "image.png"
    path.write_text("older")

    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as raised:
        write_image(path, COLOURS, survive_power_loss=survive_power_loss)
    assert raised.value.filename == str(path) and raised.value.strerror == "No space left on device"
    assert path.read_text() == "older" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("image", [np.zeros((1, 70_000), np.uint8), np.zeros((0, 0), np.uint8)], ids=["wide", "empty"])
def test_an_image_that_the_format_cannot_hold_is_an_error_of_one_line(tmp_path: Path, image: np.ndarray) -> None:
    with pytest.raises(EncodeError, match=r"cannot be written as \.jpg") as raised:
        encode_image(image, ".jpg")
    assert "\n" not in str(raised.value)
    with pytest.raises(EncodeError):
        write_image(tmp_path / "image.jpg", image)
    assert list(tmp_path.iterdir()) == []

"""Labelled stills find their film's frames, whatever number the film begins at."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from training.data.clips import WindowConfig, Windows
from training.data.dataset import list_frames, list_images, load_spec, read_image
from training.extract_film import main

SIZE = (48, 64)
LENGTH = 70


def film_frames(seed: int = 0) -> list[np.ndarray]:
    """A camera that drives along a wall, RGB."""
    wall = np.random.default_rng(seed).integers(0, 256, (7, 60, 3)).astype(np.uint8)
    wall = cv2.resize(wall, (900, SIZE[0]), interpolation=cv2.INTER_CUBIC)
    return [wall[:, 5 * number : 5 * number + SIZE[1]] for number in range(LENGTH)]


def write_film(path: Path, frames: list[np.ndarray], size: tuple[int, int] = SIZE) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, size[::-1])
    for frame in frames:
        writer.write(cv2.resize(frame, size[::-1])[..., ::-1])
    writer.release()
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """CamVid's layout: stills of sequence 0006R0 at film frames 10, 40 and 69 of a film that begins at number 920."""
    frames = film_frames()
    for number in (930, 960, 989):
        for folder, ending, image in (
            ("701_StillsRaw_full", "", frames[number - 920]),
            ("LabeledApproved_full", "_L", np.zeros((*SIZE, 3), np.uint8)),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"0006R0_f{number:05d}{ending}.png"), image[..., ::-1])
    (tmp_path / "camvid_full").mkdir()
    (tmp_path / "camvid_full" / "train.txt").write_text("0006R0_f00930\n0006R0_f00960\n0006R0_f00989\n")
    return tmp_path


def extract(root: Path, film: Path, *more: str) -> int:
    return main([str(film), "--sequence", "0006R0", "--root", str(root), *more])


def test_neighbours_come_from_the_film_and_labels_stay_on_their_frames(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract(root, write_film(root / "0006R0.avi", film_frames())) == 0
    assert "its first frame is number 920; 3 of 3 labelled frames found" in capsys.readouterr().out
    film = root / "701_StillsRaw_full" / "film"
    numbers = [928, 929, 931, 932, 958, 959, 961, 962, 987, 988]
    assert sorted(path.name for path in film.iterdir()) == [f"0006R0_f{number:05d}.png" for number in numbers]
    for number in numbers:
        written = read_image(film / f"0006R0_f{number:05d}.png").astype(float)
        assert np.abs(written - film_frames()[number - 920]).mean() < 10
    spec = load_spec("camvid_full")
    windows = Windows(list_images(spec, root, "train"), spec, WindowConfig())
    frame = list_frames(spec, root, "train")[1]
    assert [path.stem[-3:] for path in windows.around(frame, 3, 1)] == ["959", "960", "961"]
    assert windows.around(frame, 3, 1)[1].parent.name == "701_StillsRaw_full"
    # Again: the same files, and none beside those that the first time wrote.
    assert extract(root, root / "0006R0.avi") == 0
    assert len(list(film.iterdir())) == len(numbers)


def test_a_part_of_the_film_serves_the_stills_that_it_shows(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert extract(root, write_film(root / "part.avi", film_frames()[5:60]), "--reach", "1") == 0
    assert "its first frame is number 925; 2 of 3 labelled frames" in capsys.readouterr().out
    film = root / "701_StillsRaw_full" / "film"
    assert sorted(int(path.stem[-3:]) for path in film.iterdir()) == [929, 931, 959, 961]


def test_neighbours_have_the_size_of_the_stills(root: Path, tmp_path: Path) -> None:
    film = write_film(root / "wide.avi", film_frames(), (96, 128))
    assert extract(root, film, "--output", str(tmp_path / "out")) == 0
    assert {read_image(path).shape for path in (tmp_path / "out").iterdir()} == {(*SIZE, 3)}


@pytest.mark.parametrize("kind", ["another film", "half the rate", "no film", "nothing"])
def test_what_is_not_the_film_writes_nothing_and_says_why(
    root: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    path = root / "film.avi"
    if kind == "another film":
        write_film(path, film_frames(seed=1))
    elif kind == "half the rate":
        write_film(path, film_frames()[::2])
    elif kind == "no film":
        path.write_text("hello")
    assert extract(root, path) == 1
    error = capsys.readouterr().err.strip()
    assert "\n" not in error.partition("extract_film: ")[2]
    assert "of the 3 labelled frames" in error if kind in ("another film", "half the rate") else "decoded" in error
    assert not (root / "701_StillsRaw_full" / "film").exists()


def test_a_sequence_that_is_not_there_is_told_those_that_are(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["film.avi", "--sequence", "0001TP", "--root", str(root)]) == 1
    assert "--sequence 0001TP has no labelled frame; there are 0006R0" in capsys.readouterr().err

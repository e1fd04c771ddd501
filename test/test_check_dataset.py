"""A person hears everything that is wrong with a data set before a training stumbles over it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from training import check_dataset
from training.check_dataset import draw_histogram, gaps
from training.data.dataset import load_spec


@pytest.fixture
def root(make_shapes: Callable[..., Path], tmp_path: Path) -> Path:
    """A sound data set, `shapes.yaml`: frames 0 to 5 in `train`, 0 and 1 in `val`, 96 x 128."""
    make_shapes(tmp_path, {"train": 6, "val": 2})
    return tmp_path


@pytest.fixture
def check(root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs the command, asserts its exit code, and returns what it printed."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(expected: int, *arguments: str) -> str:
        code = check_dataset.main(["--dataset", str(root / "shapes.yaml"), "--root", str(root), *arguments])
        printed = capsys.readouterr()
        assert code == expected, printed
        return printed.out + printed.err

    return run


def cells(printed: str, first: str) -> list[str]:
    """The row of a table that begins with `first`."""
    rows = ([cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines())
    return next(row[1:] for row in rows if row and row[0] == first)


def test_a_sound_data_set(check: Callable[..., str], root: Path, tmp_path: Path) -> None:
    printed = check(0, "--output", str(root / "report"))
    assert cells(printed, "frames") == ["6"]
    assert cells(printed, "labelled frames") == ["6"]
    assert cells(printed, "sizes") == ["128x96 (6)"]
    assert cells(printed, "drive") == ["6", "6", "0", "5", "1", "-"]
    assert "shapes, val" in printed
    picture = cv2.imread(str(root / "report" / "class_histogram.png"))
    assert picture is not None and len(np.unique(picture)) > 10
    assert [path.name for path in (root / "report").iterdir()] == ["class_histogram.png"]


def test_only_the_splits_that_are_asked_for(check: Callable[..., str]) -> None:
    printed = check(0, "--splits", "val")
    assert cells(printed, "frames") == ["2"]
    assert "shapes, train" not in printed


def test_every_problem_is_listed_not_the_first_alone(check: Callable[..., str], root: Path) -> None:
    frames, labels = root / "train", root / "trainannot"
    (labels / "drive_000000.png").unlink()
    (frames / "drive_000001.png").unlink()
    (frames / "drive_000002.png").write_text("hello")
    cv2.imwrite(str(labels / "drive_000003.png"), np.zeros((10, 20), np.uint8))
    odd = cv2.imread(str(labels / "drive_000004.png"), cv2.IMREAD_UNCHANGED)
    odd[5, 5] = 77
    cv2.imwrite(str(labels / "drive_000004.png"), odd)
    (labels / "drive_000005.png").write_bytes(b"")
    cv2.imwrite(str(frames / "extra.png"), odd)
    printed = check(1)
    for line in (
        f"{frames / 'drive_000000.png'} has no label image {labels / 'drive_000000.png'}",
        f"{frames / 'drive_000002.png'} is damaged or no image",
        f"{labels / 'drive_000003.png'} is 20x10, its image 128x96",
        f"{labels / 'drive_000004.png'} has label id 77",
        f"{labels / 'drive_000005.png'} is damaged or no image",
        f"{frames / 'extra.png'} does not fit the name_pattern",
    ):
        assert line in printed
    lone = printed[printed.index("label images without a frame: 1") :].splitlines()[1]
    assert lone.strip() == str(labels / "drive_000001.png")
    assert "7 problems" in printed
    assert "shapes, val" in printed


def test_an_image_and_its_labels_may_both_be_unreadable(check: Callable[..., str], root: Path) -> None:
    for folder in ("val", "valannot"):
        (root / folder / "drive_000000.png").write_text("hello")
    printed = check(1, "--splits", "val")
    assert "images: 2" in printed


def test_many_problems_of_one_kind_hide_no_other(check: Callable[..., str], root: Path) -> None:
    for number in range(50):
        (root / "train" / f"x{number}.png").write_text("hello")
    (root / "trainannot" / "drive_000003.png").write_text("hello")
    printed = check(1, "--splits", "train")
    assert "names and pairs: 50" in printed
    assert printed.count("does not fit") == 10 and "and 40 more" in printed
    assert "drive_000003.png is damaged" in printed


def test_a_split_that_is_missing_or_empty(check: Callable[..., str], root: Path) -> None:
    (root / "test").mkdir()
    (root / "testannot").mkdir()
    printed = check(1, "--splits", "test", "extra", "val")
    assert f"{root / 'test'} holds no images" in printed
    assert f"{root / 'extra'} is not a folder" in printed
    assert cells(printed[printed.index("shapes, val") :], "frames") == ["2"]
    assert "2 problems" in printed


def test_masks_whose_255_is_void_are_told_of(check: Callable[..., str], root: Path) -> None:
    for path in (root / "valannot").iterdir():
        cv2.imwrite(str(path), np.where(cv2.imread(str(path), cv2.IMREAD_UNCHANGED) == 1, 255, 0).astype(np.uint8))
    assert "has label id 255, neither a class nor void: it is a mask of 0 and 255" in check(1, "--splits", "val")
    yaml_file = next(root.glob("*.yaml"))
    yaml_file.write_text(yaml_file.read_text().replace("void_ids: [9]", "void_ids: [9, 255]"))
    assert "255 is a class that void_ids makes void: give the classes label_ids" in check(1, "--splits", "val")


def test_classes_that_never_appear(check: Callable[..., str], root: Path) -> None:
    for path in (root / "valannot").iterdir():
        cv2.imwrite(str(path), np.zeros((96, 128), np.uint8))
    printed = check(1, "--splits", "val")
    assert "class 1 'disc' never appears in the val split" in printed
    assert "class 2 'box' never appears in the val split" in printed
    assert "'ground'" not in printed


def test_labels_that_are_all_void_are_one_problem(check: Callable[..., str], root: Path) -> None:
    for path in (root / "valannot").iterdir():
        cv2.imwrite(str(path), np.full((96, 128), 9, np.uint8))
    printed = check(1, "--splits", "val", "--output", str(root / "report"))
    assert "the val split has no labelled pixel" in printed
    assert "1 problem," in printed


def test_one_label_image_of_two_splits_is_a_problem(check: Callable[..., str], root: Path) -> None:
    """A data set whose labels do not lie by split, and whose splits both begin with frame 0."""
    path = root / "shapes.yaml"
    path.write_text(path.read_text().replace('"{split}annot"', "trainannot"))
    train, val, labels = (root / folder / "drive_000000.png" for folder in ("train", "val", "trainannot"))
    printed = check(1)
    assert f"{train} and {val} have the same label image {labels}, which cannot be right for both" in printed


def test_a_name_with_a_line_end_is_one_line(check: Callable[..., str], root: Path) -> None:
    (root / "train" / "two\nlines\x1b[31m.png").write_text("hello")
    assert f"{root / 'train'}/two\\nlines\\x1b[31m.png does not fit" in check(1, "--splits", "train")


def test_classes_of_one_colour_are_a_problem(check: Callable[..., str], root: Path) -> None:
    path = root / "shapes.yaml"
    path.write_text(path.read_text().replace("[220, 40, 40]", "[40, 60, 200]"))
    assert "'disc' and 'box' are both drawn in [40, 60, 200]: give each a colour of its own" in check(1)


def test_a_frame_of_two_splits_is_a_problem(check: Callable[..., str], root: Path) -> None:
    for folder in ("train", "trainannot"):
        shutil.copy(root / folder / "drive_000004.png", root / folder.replace("train", "val") / "walk_7.png")
    printed = check(1)
    assert "frames of train that are in val too: 1" in printed
    assert f"  {root / 'val' / 'walk_7.png'} is {root / 'train' / 'drive_000004.png'}\n" in printed
    assert "1 problem," in printed


@pytest.mark.parametrize("name", ["cam:car:1 [red]", "stra\udcdfe", "a b: c"])
def test_sequences_of_any_name_are_printed_as_they_are(check: Callable[..., str], root: Path, name: str) -> None:
    """Not as styles and pictures; and what is no UTF-8 ends nothing."""
    for folder in ("train", "trainannot"):
        for path in (root / folder).iterdir():
            path.rename(path.with_name(path.name.replace("drive", name)))
    (root / "train" / f"{name}_000001.png").write_text("hello")
    shown = name.encode("utf-8", "backslashreplace").decode()
    printed = check(1, "--splits", "train")
    assert cells(printed, shown) == ["6", "6", "0", "5", "1", "-"]
    assert f"{shown}_000001.png is damaged or no image" in printed


def test_frames_that_are_bare_numbers(check: Callable[..., str], root: Path) -> None:
    path = root / "shapes.yaml"
    path.write_text(path.read_text().replace("(?P<sequence>[^_]+)_(?P", "(?P"))
    for image in root.rglob("drive_*.png"):
        image.rename(image.with_name(image.name.removeprefix("drive_")))
    assert cells(check(0, "--splits", "train"), "(all)") == ["6", "6", "0", "5", "1", "-"]


def test_gaps_and_unlabelled_frames_are_shown_and_are_no_problem(check: Callable[..., str], root: Path) -> None:
    path = root / "shapes.yaml"
    path.write_text(path.read_text() + "unlabelled_frames: true\n")
    for number in (0, 4):
        (root / "trainannot" / f"drive_{number:06d}.png").unlink()
    (root / "train" / "drive_000003.png").unlink()
    (root / "trainannot" / "drive_000003.png").unlink()
    assert cells(check(0), "drive") == ["5", "3", "0", "5", "1", "2 to 4"]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([7], (None, [])),
        ([0, 30, 60, 61, 90], (30, [])),
        ([90, 0, 30, 60, 2000], (30, [(90, 2000)])),
        ([0, 2, 4, 10, 12, 20], (2, [(4, 10), (12, 20)])),
        ([0, 1, 5], (1, [(1, 5)])),
        ([0, 33, 67, 100, 133, 200], (33, [(133, 200)])),
    ],
)
def test_a_gap_is_a_step_well_above_the_usual_one(
    numbers: list[int], expected: tuple[int | None, list[tuple[int, int]]]
) -> None:
    assert gaps(numbers) == expected


@pytest.mark.parametrize("counts", [[0, 0, 0], [5, 0, 0], [1, 10**12, 3]])
def test_a_histogram_of_extremes(root: Path, counts: list[int]) -> None:
    path = root / "picture.png"
    draw_histogram({"train": np.array(counts)}, load_spec(root / "shapes.yaml"), path)
    assert cv2.imread(str(path)) is not None


def test_a_data_set_that_is_unknown_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert check_dataset.main(["--dataset", "nothing", "--root", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("place", ["shapes.yaml", "shapes.yaml/report", "taken"])
def test_a_place_for_the_report_that_cannot_be_is_known_before_the_data_is_read(
    check: Callable[..., str], root: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (root / "taken" / "class_histogram.png").mkdir(parents=True)
    monkeypatch.setattr(check_dataset, "check_split", lambda *_: pytest.fail("the data was read first"))
    printed = check(1, "--output", str(root / place))
    assert printed.startswith("check_dataset: --output ") and printed.count("\n") == 1


def test_camvid_as_it_lies_here_is_sound(shared: Path) -> None:
    if not (shared / "camvid").is_dir():
        pytest.skip(f"{shared / 'camvid'} is not here")
    assert check_dataset.main(["--dataset", "camvid", "--root", str(shared / "camvid"), "--splits", "val"]) == 0

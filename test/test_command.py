"""What every command does alike: one line and a status where it fails or is stopped, and outputs tried first."""

from __future__ import annotations

import argparse
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tqdm import tqdm

from stmem_ros.command import OutputError, exit_status, image_size, require_writable
from training import build_memory, check_dataset, evaluate, export, import_weights, train


class Refused(Exception):
    pass


def raising(error: BaseException) -> Callable[..., int]:
    def work(*_: object) -> int:
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "status", "said"),
    [
        (lambda: None, 0, ""),
        (lambda: 3, 3, ""),
        (raising(Refused("no\nway")), 1, "command: no way\n"),
        (raising(PermissionError(errno.EACCES, "Permission denied", "/a/b")), 1, "command: /a/b: Permission denied\n"),
        (raising(OutputError("--json x is a folder")), 1, "command: --json x is a folder\n"),
        (raising(KeyboardInterrupt()), 130, "command: stopped; try again\n"),
        (raising(KeyboardInterrupt("2 of 3 are done")), 130, "command: stopped; 2 of 3 are done; try again\n"),
    ],
)
def test_an_end_is_a_status_and_at_most_one_line(
    capsys: pytest.CaptureFixture[str], work: Callable[[], int | None], status: int, said: str
) -> None:
    assert exit_status("command", work, (Refused,), "try again") == status
    assert capsys.readouterr().err == said


def test_a_defect_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_status("command", raising(ZeroDivisionError()), (Refused,))


def test_a_progress_bar_ends_its_line_before_the_stop_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        for step in tqdm(range(9), mininterval=0):
            if step == 4:
                raise KeyboardInterrupt

    assert exit_status("command", work) == 130
    assert capsys.readouterr().err.endswith("\ncommand: stopped\n")


MODULES = {
    "evaluate": (evaluate, "run", ["--dataset", "camvid", "--root", "."], ""),
    "check_dataset": (check_dataset, "run", ["--dataset", "camvid", "--root", "."], ""),
    "import_weights": (import_weights, "run", ["in.pth", "out.safetensors"], "nothing was written"),
    "export": (export, "run", ["-o", "out"], "nothing was written"),
    "build_memory": (
        build_memory,
        "run",
        ["--checkpoint", "a", "--dataset", "camvid", "--root", ".", "--output", "b"],
        "nothing was written",
    ),
    "training": (train, "settings_parser", [], "the same command goes on from the last whole epoch"),
}


@pytest.mark.parametrize("name", MODULES)
def test_ctrl_c_is_one_line_and_status_130(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, part, arguments, said = MODULES[name]
    monkeypatch.setattr(module, part, raising(KeyboardInterrupt()))
    assert module.main(arguments) == 130
    error = capsys.readouterr().err
    assert error.startswith(f"{name}: stopped") and said in error and error.count("\n") == 1


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "file").write_text("here")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    yield tmp_path
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("path", ["new", "file", "folder/new", "a/b/c"])
def test_a_file_may_be_new_or_replace_another(place: Path, path: str) -> None:
    require_writable("--json", place / path)


@pytest.mark.parametrize("path", ["new", "folder", "a/b/c"])
def test_a_folder_may_be_new_or_there(place: Path, path: str) -> None:
    require_writable("--pictures", place / path, folder=True)


@pytest.mark.parametrize(
    ("path", "folder", "reason"),
    [
        ("folder", False, "folder is a folder; it must be a file's name"),
        ("file/new", False, "file is a file: name another place"),
        ("file/a/b", False, "file is a file: name another place"),
        ("file", True, "file is a file: name another place"),
        ("file/new", True, "file is a file: name another place"),
    ],
)
def test_a_place_that_cannot_be_is_named(place: Path, path: str, folder: bool, reason: str) -> None:
    with pytest.raises(OutputError) as refusal:
        require_writable("--option", place / path, folder)
    assert str(refusal.value).startswith("--option ") and reason in str(refusal.value)


def test_a_device_is_no_file_to_replace() -> None:
    with pytest.raises(OutputError, match="/dev/null is no regular file"):
        require_writable("--json", Path(os.devnull))


def test_a_folder_that_may_not_be_written_to_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Permission bits do not bind root, who may be who runs this.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != place / "folder")
    require_writable("--json", place / "file")
    with pytest.raises(OutputError, match=f"cannot be written: {place / 'folder'} is read-only here"):
        require_writable("--json", place / "folder" / "new" / "file")


@pytest.mark.parametrize("text", ["", "480", "480x", "480X640", "480x640x3", "-1x64", "1e2x64", "\u0661x\u0662"])
def test_a_size_is_height_and_width(text: str) -> None:
    assert image_size("480x640") == (480, 640)
    with pytest.raises(argparse.ArgumentTypeError, match="must be HEIGHTxWIDTH in pixels, such as 480x640"):
        image_size(text)

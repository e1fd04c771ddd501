"""`~` is the home folder wherever a path is given: a shell leaves it in `--out=~/x`, `checkpoint:=~/x` and in YAML."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from stmem_ros.checkpoint import DEFAULT_CHECKPOINT, find_checkpoint, read_info
from stmem_ros.files import user_path
from stmem_ros.sources import SourceError, open_source
from stmem_ros.streaming.exported import read_export
from training.data.dataset_spec import load_spec
from training.train_config import instantiated, settings_parser

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_the_home_folder_stands_for_its_sign_alone(home: Path) -> None:
    assert user_path("~/a/b") == home / "a" / "b"
    assert user_path("~") == home
    assert [str(user_path(text)) for text in ("a~/b", "./~", "~no such user/x")] == ["a~/b", "~", "~no such user/x"]


def test_every_option_that_is_a_path_is_read_so() -> None:
    plain = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in ("stmem_ros", "training")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.keyword) and node.arg == "type" and ast.unparse(node.value) in ("Path", "pathlib.Path")
    ]
    assert not plain, "argparse's type=Path leaves ~ as it is: take stmem_ros.files.user_path"


def test_a_checkpoint_in_the_home_folder(home: Path) -> None:
    shutil.copy(DEFAULT_CHECKPOINT, home / "mine.safetensors")
    assert find_checkpoint("~/mine.safetensors") == home / "mine.safetensors"
    assert read_info("~/mine.safetensors").config == read_info(DEFAULT_CHECKPOINT).config
    with pytest.raises(Exception, match=f"{home}/export is a folder without"):
        read_export("~/export")


def test_a_source_in_the_home_folder(home: Path) -> None:
    with pytest.raises(SourceError, match=f"{home}/drive.mp4 does not exist"):
        open_source("~/drive.mp4")


def test_a_data_set_in_the_home_folder_and_what_it_extends(home: Path) -> None:
    (home / "mine.yaml").write_text("extends: camvid\nframe_rate: 5\n")
    (home / "other").mkdir()
    (home / "other" / "own.yaml").write_text("extends: ~/mine.yaml\n")
    assert load_spec("~/other/own.yaml").frame_rate == 5


def test_settings_of_training_in_yaml_and_on_the_command_line(home: Path) -> None:
    shutil.copy(ROOT / "training" / "configs" / "street.yaml", home / "mine.yaml")
    parser = settings_parser()
    config = instantiated(
        parser, parser.parse_args(["--config", "~/mine.yaml", "--run=~/run", "--root=~/data", "--start_from=~/a"])
    )
    assert (config.run, config.root, config.start_from) == (f"{home}/run", f"{home}/data", f"{home}/a")
    assert config.dataset == "street/street.yaml"

"""The training configurations that tables, figures and the command line name."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path

import yaml

from stmem_ros.files import one_line
from training.paper.document import NotMeasured

CONFIGS = Path(__file__).parents[1] / "configs"


@dataclasses.dataclass(frozen=True)
class Configuration:
    """A run's YAML file and what it says of data and base network; `own` where it is not one of this package's."""

    file: Path
    own: bool
    run: str
    dataset: str
    root: str
    train_split: str
    val_split: str
    base: str

    @property
    def name(self) -> str:
        """That of its folder of runs, and in --checkpoint NAME=FILE."""
        return self.file.stem


def find_configuration(text: str, option: str = "--config") -> Configuration:
    """By name, with `paper/` and `.yaml` or without, or by the path of a YAML file.

    Raises NotMeasured, naming the `option` that the text was given with.
    """
    path = Path(text)
    is_yaml = path.suffix.lower() in (".yaml", ".yml")
    stem = text.removesuffix(path.suffix) if is_yaml else text
    ours = [file for file in (CONFIGS / f"{stem}.yaml", CONFIGS / "paper" / f"{stem}.yaml") if stem and file.is_file()]
    if is_yaml and path.is_file():
        file = path
    elif ours:
        file = ours[0]
    elif is_yaml and path.name != text:
        raise NotMeasured(f"{option} {text}: there is no such file")
    else:
        raise NotMeasured(f"{option} {text}: there is no such configuration; {_near(stem)}")
    return _read(file, f"{option} {text}")


def _near(stem: str) -> str:
    files = [file for folder in (CONFIGS, CONFIGS / "paper") for file in folder.glob("*.yaml")]
    # Others hold settings that go on top of these.
    known = sorted(file.stem for file in files if "\nnetwork:" in file.read_text())
    near = difflib.get_close_matches(stem.rpartition("/")[2], known, n=3, cutoff=0.5)
    return f"near it are {', '.join(near)}" if near else f"there are {', '.join(known)}"


def _read(file: Path, given: str) -> Configuration:
    try:
        document = yaml.safe_load(file.read_text())
        return Configuration(
            file,
            CONFIGS.resolve() not in file.resolve().parents,
            str(document["run"]),
            str(document["dataset"]),
            str(document["root"]),
            str(document.get("train_split", "train")),
            str(document.get("val_split", "val")),
            str(document["network"]["base"]),
        )
    except OSError as error:
        raise NotMeasured(f"{given}: that file cannot be read: {error.strerror or error}") from error
    except KeyError as error:
        raise NotMeasured(f"{given}: that file is no whole training, {error} is missing") from error
    except (TypeError, AttributeError, ValueError, yaml.YAMLError) as error:
        raise NotMeasured(f"{given}: that file is no configuration of a training: {one_line(error)}") from error

"""What of the paper can be measured here: the data sets and checkpoints that there are, and their figures."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shlex
from pathlib import Path
from typing import Any

from stmem_ros.checkpoint import DEFAULT_CHECKPOINT, CheckpointError, CheckpointInfo, read_info
from stmem_ros.files import one_line
from training import evaluate
from training.data.clips import WindowConfig, Windows
from training.data.dataset import DatasetError, list_frames, list_images, load_spec
from training.data.fingerprint import Digests, of_evaluation
from training.paper.configuration import Configuration, find_configuration
from training.paper.document import NotMeasured, Source
from training.paper.tables import DatasetName, System

# The package's own model is there without a run.
SHIPPED = {"camvid_lite2": DEFAULT_CHECKPOINT}


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set on this disk: `spec` is a name from training/datasets, `split` one of its splits.

    `differs` says how it is not the paper's; empty where it is.
    """

    spec: str
    root: Path
    split: str
    differs: str = ""


def find_cityscapes(root: Path) -> Data:
    """With its videos if they are there, and either kind of label images. Raises NotMeasured where there is none."""
    for spec, folder in (("cityscapes", "leftImg8bit_sequence"), ("cityscapes_single", "leftImg8bit")):
        if (root / folder / "val").is_dir() and (root / "gtFine" / "val").is_dir():
            labels = root / "gtFine" / "val"
            if (
                spec == "cityscapes"
                and not any(labels.glob("*/*_labelIds.png"))
                and any(labels.glob("*/*_labelTrainIds.png"))
            ):
                spec = "cityscapes_trainids"
            return Data(
                spec, root, "val", "" if spec != "cityscapes_single" else "without its videos: no neighbours for STF"
            )
    raise NotMeasured(
        f"no Cityscapes in {root}: it needs gtFine/val and leftImg8bit_sequence/val (--cityscapes FOLDER)"
    )


def find_camvid(root: Path) -> Data:
    """CamVid in full size, or in the layout of the SegNet tutorial; `val` where there is no `test`.

    Raises NotMeasured where there is none.
    """
    if (root / "701_StillsRaw_full").is_dir():
        return Data("camvid_full", root, "test")
    for split in ("test", "val"):
        if (root / split).is_dir() and (root / f"{split}annot").is_dir():
            return Data("camvid", root, split, f"on {split} at 480x360, the paper's is test at 960x720")
    raise NotMeasured(f"no CamVid in {root}: it needs 701_StillsRaw_full, or test and testannot (--camvid FOLDER)")


FINDERS = {"cityscapes": find_cityscapes, "camvid": find_camvid}


def dataset_name(configuration: Configuration) -> DatasetName | None:
    """Which of the paper's data sets a configuration is for, in any of its layouts."""
    for name in ("cityscapes", "camvid"):
        if configuration.dataset == name or configuration.dataset.startswith(f"{name}_"):
            return name
    return None


def settings_for(configuration: Configuration, data: Data) -> dict[str, str]:
    """Options of training that take a configuration to the data, as far as it does not say the same."""
    settings = {}
    if data.spec != configuration.dataset:
        settings["--dataset"] = data.spec
    if data.root != Path(configuration.root):
        settings["--root"] = str(data.root)
    # The SegNet tutorial's layout has no trainval, and may have no test.
    if data.spec == "camvid":
        given = {"--train_split": configuration.train_split, "--val_split": configuration.val_split}
        there = {"--train_split": "train", "--val_split": data.split}
        settings |= {
            option: there[option]
            for option, split in given.items()
            if split != there[option] and not (data.root / split).is_dir()
        }
    return settings


def shown(path: Path) -> str:
    """From here where it lies below, so that a document says the same on another machine."""
    near = os.path.relpath(path)
    return str(path) if near.startswith(os.pardir) else near


class Local:
    """The data and checkpoints of this machine.

    `roots` says where each data set lies, `runs` holds a folder a training run, `given` are checkpoints that stand for
    a configuration's, by its name. What was measured is kept in `folder` and measured again where checkpoint, data,
    `device` or `short_side` (0: the checkpoint's) differ.
    """

    def __init__(
        self,
        roots: dict[DatasetName, Path | None],
        runs: Path,
        given: dict[str, Path],
        folder: Path,
        device: str = "auto",
        short_side: int = 0,
    ) -> None:
        self.roots, self.runs, self.given, self.folder = roots, runs, given, folder
        self.device, self.short_side = device, short_side
        self._figures: dict[tuple[str, str, str], tuple[dict[str, Any], Source] | NotMeasured] = {}

    def data(self, dataset: DatasetName) -> Data:
        """Raises NotMeasured."""
        root = self.roots[dataset]
        if root is None:
            raise NotMeasured(f"no data: --{dataset} FOLDER")
        return FINDERS[dataset](root)

    def data_of(self, configuration: Configuration) -> Data:
        """Where the command line says, or the configuration where that is one's own. Raises NotMeasured."""
        name = dataset_name(configuration)
        if name is not None and (self.roots[name] is not None or not configuration.own):
            return self.data(name)
        return Data(configuration.dataset, Path(configuration.root), configuration.val_split)

    def checkpoint(self, configuration: Configuration) -> Path:
        """The trained network of a configuration. Raises NotMeasured."""
        name = configuration.name
        path = self.given.get(name, self.runs / name / "model.safetensors")
        if path.is_file():
            self.info(path, configuration)
            return path
        if name not in self.given and name in SHIPPED:
            return SHIPPED[name]
        raise NotMeasured(f"no {path}: {self.training(configuration)}, or --checkpoint {name}=FILE")

    def info(self, checkpoint: Path, configuration: Configuration | None = None) -> CheckpointInfo:
        """What a checkpoint says. Raises NotMeasured where it is another network than its configuration trains."""
        try:
            info = read_info(checkpoint)
        except CheckpointError as error:
            raise NotMeasured(str(error)) from error
        # A ResNet's "b" has another stem, as some published networks have.
        if configuration and info.config.base.removesuffix("b") != configuration.base.removesuffix("b"):
            raise NotMeasured(
                f"{checkpoint} is {info.config.base}, {configuration.name} is {configuration.base}: "
                "give a file of that network"
            )
        return info

    def training(self, configuration: Configuration, stage: str = "") -> str:
        """The command that trains a configuration over the data, and into the folder, that were given here."""
        words = ["python", "-m", "training.train", shown(configuration.file)]
        words += ["--stage", stage] if stage else []
        words += [word for pair in settings_for(configuration, self.data_of(configuration)).items() for word in pair]
        run = self.runs / configuration.name
        words += ["--run", str(run)] if run != Path(configuration.run) else []
        return shlex.join(words)

    def row(self, system: System) -> tuple[dict[str, Any], Data, Source]:
        """What `evaluate --json` says of one system, of which data, and by which file. Raises NotMeasured."""
        data, checkpoint = self.data(system.dataset), self.checkpoint(find_configuration(system.config))
        baseline = system.row.partition("+")[2]
        figures, source = self.rows(checkpoint, data, baseline)
        if system.row not in figures:
            raise NotMeasured(f"{checkpoint} has no row {system.row}, only {', '.join(figures)}")
        return figures[system.row], data, source

    def rows(self, checkpoint: Path, data: Data, baseline: str = "") -> tuple[dict[str, Any], Source]:
        """What `evaluate --json` says of each row that a checkpoint gives, measured once. Raises NotMeasured."""
        key = (str(checkpoint), data.spec, baseline)
        if key not in self._figures:
            try:
                self._figures[key] = self._evaluate(checkpoint, data, baseline)
            except NotMeasured as error:
                self._figures[key] = error
        found = self._figures[key]
        if isinstance(found, NotMeasured):
            raise found
        return found

    def source(self, checkpoint: Path, data: Data, frames: int) -> Source:
        """What is said of figures from `frames` of the data. Raises NotMeasured, and OSError."""
        return Source(
            shown(checkpoint),
            hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
            load_spec(data.spec).name,
            data.split,
            frames,
            self.short_side or self.info(checkpoint).short_side,
        )

    def _evaluate(self, checkpoint: Path, data: Data, baseline: str) -> tuple[dict[str, Any], Source]:
        arguments = ["--dataset", data.spec, "--root", str(data.root), "--split", data.split]
        arguments += ["--checkpoint", str(checkpoint), "--device", self.device, "--short-side", str(self.short_side)]
        if baseline:
            arguments += ["--baseline", baseline]
        try:
            spec = load_spec(data.spec)
            frames = list_frames(spec, data.root, data.split)
            windows = Windows(list_images(spec, data.root, data.split), spec, WindowConfig())
            # Baselines look at three frames, also where the network looks at one.
            length = max(self.info(checkpoint).config.window_frames, 3)
            seen = of_evaluation(spec, frames, windows, length, Digests())
        except DatasetError as error:
            raise NotMeasured(one_line(error)) from error
        source = self.source(checkpoint, data, len(frames))
        text = json.dumps([arguments, seen]).encode() + checkpoint.read_bytes()
        key = hashlib.sha256(text).hexdigest()[:12]
        file = self.folder / f"{checkpoint.stem}-{Path(data.spec).stem}-{key}.json"
        if not file.is_file():
            print(f"measuring {source}{f', with {baseline}' if baseline else ''}")
            options = evaluate.options_parser().parse_args([*arguments, "--json", str(file)])
            try:
                evaluate.run(options)
            except evaluate.ERRORS as error:
                raise NotMeasured(one_line(error)) from error
        try:
            return json.loads(file.read_text())["rows"], source
        except (OSError, ValueError, KeyError) as error:
            raise NotMeasured(f"{file} is damaged ({error}): delete it and measure again") from error

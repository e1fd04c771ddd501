"""What of the paper can be measured here: the data sets and checkpoints that there are, and their figures."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from stmem_ros.checkpoint import DEFAULT_CHECKPOINT, CheckpointError, read_info
from training import evaluate
from training.data.dataset import DatasetError, fingerprint, list_frames, load_spec
from training.paper.tables import DatasetName, System

CONFIGS = Path(__file__).parents[1] / "configs"
# The package's own model is there without a run.
SHIPPED = {"camvid_lite2": DEFAULT_CHECKPOINT}


class NotMeasured(Exception):
    """Why a figure cannot be had here: one line that says what to do."""


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


def _require_base(checkpoint: Path, config: str) -> None:
    """Raises NotMeasured where a checkpoint is another network than its configuration trains."""
    file = CONFIGS / f"{config}.yaml"
    wanted = yaml.safe_load(file.read_text())["network"]["base"] if file.is_file() else None
    try:
        found = read_info(checkpoint).config.base
    except CheckpointError as error:
        raise NotMeasured(str(error)) from error
    # A ResNet's "b" has another stem, as some published networks have.
    if wanted is not None and found.removesuffix("b") != wanted.removesuffix("b"):
        raise NotMeasured(f"{checkpoint} is {found}, {config} is {wanted}: give a file of that network")


class Local:
    """The data and checkpoints of this machine.

    `roots` says where each data set lies, `runs` holds a folder a training run, `given` are checkpoints that stand for
    a configuration's. What was measured is kept in `folder` and measured again where checkpoint, data or options
    differ.
    """

    def __init__(
        self,
        roots: dict[DatasetName, Path | None],
        runs: Path,
        given: dict[str, Path],
        folder: Path,
        options: list[str],
    ) -> None:
        self.roots, self.runs, self.given, self.folder, self.options = roots, runs, given, folder, options
        self._figures: dict[tuple[str, str, str], dict[str, Any] | NotMeasured] = {}

    def data(self, dataset: DatasetName) -> Data:
        """Raises NotMeasured."""
        root = self.roots[dataset]
        if root is None:
            raise NotMeasured(f"no data: --{dataset} FOLDER")
        return FINDERS[dataset](root)

    def checkpoint(self, config: str) -> Path:
        """The trained network of a configuration. Raises NotMeasured."""
        name = config.rpartition("/")[2]
        path = self.given.get(name, self.runs / name / "model.safetensors")
        if path.is_file():
            _require_base(path, config)
            return path
        if name not in self.given and name in SHIPPED:
            return SHIPPED[name]
        raise NotMeasured(
            f"no {path}: python -m training.train training/configs/{config}.yaml, or --checkpoint {name}=FILE"
        )

    def row(self, system: System) -> tuple[dict[str, Any], Data]:
        """What `evaluate --json` says of one system, and of which data. Raises NotMeasured."""
        data, checkpoint = self.data(system.dataset), self.checkpoint(system.config)
        baseline = system.row.partition("+")[2]
        figures = self.rows(checkpoint, data, baseline)
        if system.row not in figures:
            raise NotMeasured(f"{checkpoint} has no row {system.row}, only {', '.join(figures)}")
        return figures[system.row], data

    def rows(self, checkpoint: Path, data: Data, baseline: str = "") -> dict[str, Any]:
        """What `evaluate --json` says of each row that a checkpoint gives, measured once. Raises NotMeasured."""
        key = (str(checkpoint), data.spec, baseline)
        if key not in self._figures:
            try:
                self._figures[key] = self._evaluate(checkpoint, data, baseline)
            except NotMeasured as error:
                self._figures[key] = error
        figures = self._figures[key]
        if isinstance(figures, NotMeasured):
            raise figures
        return figures

    def _evaluate(self, checkpoint: Path, data: Data, baseline: str) -> dict[str, Any]:
        arguments = ["--dataset", data.spec, "--root", str(data.root), "--split", data.split]
        arguments += ["--checkpoint", str(checkpoint), *self.options]
        if baseline:
            arguments += ["--baseline", baseline]
        try:
            seen = fingerprint(list_frames(load_spec(data.spec), data.root, data.split))
        except DatasetError as error:
            raise NotMeasured(str(error)) from error
        text = json.dumps([arguments, seen]).encode() + checkpoint.read_bytes()
        file = self.folder / f"{checkpoint.stem}-{data.spec}-{hashlib.sha256(text).hexdigest()[:12]}.json"
        if not file.is_file():
            options = evaluate.options_parser().parse_args([*arguments, "--json", str(file)])
            try:
                evaluate.run(options)
            except evaluate.ERRORS as error:
                raise NotMeasured(" ".join(str(error).split())) from error
        try:
            return json.loads(file.read_text())["rows"]
        except (OSError, ValueError, KeyError) as error:
            raise NotMeasured(f"{file} is damaged ({error}): delete it and measure again") from error

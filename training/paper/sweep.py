"""The sizes of MAR's memory (paper, section 4.3): stage 3 trained anew for each K_L and K_H over the same network."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
import shutil
from pathlib import Path

from stmem_ros.checkpoint import save_checkpoint
from stmem_ros.command import require_writable
from stmem_ros.files import one_line
from stmem_ros.network import SegmenterConfig
from stmem_ros.streaming import resolve_device
from training.data.dataset import require_classes
from training.evaluate import networks_of
from training.measure.rows import row_name
from training.paper.configuration import Configuration, find_configuration
from training.paper.document import Document, Line, NotMeasured
from training.paper.local import Data, Local, dataset_name, settings_for
from training.paper.tables import SWEEP_CONFIDENT, SWEEP_HARD
from training.stages.run_lock import locked
from training.stages.stage_folder import TrainingError
from training.train import Run
from training.train_config import TrainConfig, instantiated, parse, settings_parser

# Settings that are not the sweep's to change, and what says them.
TAKEN = {
    "config": "--config",
    "stage": "the sweep itself",
    "run": "--runs",
    "network.mar.hard_per_class": "--hard",
    "memory.confident_per_class": "--confident",
    "memory.file": "the sweep itself",
}


def kl_kh(options: argparse.Namespace, local: Local) -> Document:
    """Trains what is not trained yet, so a sweep that was stopped goes on.

    Raises NotMeasured where a size is none, or the data or the stage before MAR is missing, and what training raises.
    """
    sizes = {"hard": options.hard or SWEEP_HARD, "confident": options.confident or SWEEP_CONFIDENT}
    for name, values in sizes.items():
        for value in values:
            if value < 1:
                raise NotMeasured(f"--{name} {value}: a memory takes at least 1 feature of each class")
    configuration = find_configuration(options.config)
    config, data = _settings_and_data(configuration, options, local)
    if config.network.mar is None:
        raise NotMeasured(f"{configuration.file} trains no MAR: network.mar is not set")
    cells = {
        (hard, confident): _sized(config, hard, confident)
        for hard, confident in itertools.product(*map(dict.fromkeys, sizes.values()))
    }
    folder = Path(config.run)
    require_writable("--runs", folder, folder=True)
    before = _before(configuration, config, local)
    run = Run(config)
    require_classes(local.info(before, configuration).labels, run.data.spec, str(before))
    lines = []
    with locked(folder):
        for (hard, confident), sized in cells.items():
            name = f"K_L = {hard}, K_H = {confident}"
            print(f"{name}: {len(lines) + 1} of {len(cells)}")
            checkpoint = _train(run, sized, before, folder / f"kl{hard}_kh{confident}")
            figures, source = local.rows(checkpoint, data)
            row = "mar" if config.network.stf is None else "both"
            lines.append(Line(name, None, figures[row]["miou"], source=source))
        if not config.keep_cache:
            shutil.rmtree(folder / "cache", ignore_errors=True)
    remark = "The paper, of PSPNet-50 on Cityscapes val: almost no fluctuation, without figures."
    if len(lines) > 1:
        ours = [line.ours for line in lines if line.ours is not None]
        remark += f" Here, of {configuration.name}, the figures lie {max(ours) - min(ours):.2f} apart."
    if options.set:
        remark += f" Trained with other settings than the configuration's: {' '.join(options.set)}."
    return Document("kl_kh", "Memory sizes (section 4.3)", "mIoU, %", tuple(lines), (remark,))


def _settings_and_data(
    configuration: Configuration, options: argparse.Namespace, local: Local
) -> tuple[TrainConfig, Data]:
    """The sweep's own settings, and what its networks are measured on. Raises NotMeasured and ValueError."""
    dataset = dataset_name(configuration)
    data = None if dataset is None else local.data_of(configuration)
    given = {} if data is None else settings_for(configuration, data)
    arguments = [f"{name}={value}" for name, value in given.items()]
    device = resolve_device(local.device)
    if local.device != "auto":
        arguments.append(f"--accelerator={'gpu' if device.type == 'cuda' else 'cpu'}")
    for setting in options.set:
        name, equals, _ = setting.partition("=")
        if not (equals and name):
            raise NotMeasured(f"--set {setting}: it must be SETTING=VALUE, such as mar.epochs=2")
        if name in TAKEN:
            raise NotMeasured(f"--set {setting}: {TAKEN[name]} says that here")
        if data is not None and name in ("dataset", "root"):
            raise NotMeasured(f"--set {setting}: --{dataset} FOLDER says that here")
        arguments.append(f"--{setting}")
    parser = settings_parser()
    try:
        config = instantiated(parser, parse(parser, [f"--config={configuration.file}", *arguments]))
    except ValueError as error:
        raise NotMeasured(
            f"{'--set ' + ' '.join(options.set) if options.set else configuration.file}: {one_line(error)}"
        ) from error
    config = dataclasses.replace(config, run=str(local.runs / configuration.name / "kl_kh"), pretrained=None)
    return config, data or Data(config.dataset, Path(config.root), config.val_split)


def _before(configuration: Configuration, config: TrainConfig, local: Local) -> Path:
    """The file of the network that MAR is trained over, taken out of a whole run's where there is no other."""
    part = "base" if config.network.stf is None else "stf"
    name, folder = configuration.name, local.runs / configuration.name
    path = folder / part / f"{part}.safetensors"
    if part == "base" and config.start_from is not None:
        path = Path(config.start_from)
    if name not in local.given and path.is_file():
        return path
    try:
        checkpoint = local.checkpoint(configuration)
    except NotMeasured as error:
        if name in local.given:
            raise
        raise NotMeasured(f"no {path}: {local.training(configuration, part)}, or --checkpoint {name}=FILE") from error
    if row_name(local.info(checkpoint).config) == part:
        return checkpoint
    rows = {row_name(info.config): (model, info) for _, model, info in networks_of([checkpoint])}
    if part not in rows:
        raise NotMeasured(f"{checkpoint} has no row {part}, which MAR is trained over, only {', '.join(rows)}")
    model, info = rows[part]
    taken = Path(config.run) / f"{part}.safetensors"
    save_checkpoint(taken, model, info)
    return taken


def _train(run: Run, config: TrainConfig, before: Path, folder: Path) -> Path:
    """Memory and MAR of one pair of sizes, in `folder`. Raises NotMeasured where it holds those of other settings."""
    # The data is the same, and was looked through once.
    run = copy.copy(run)
    run.config = config
    try:
        return run.temporal("mar", before, folder / "mar", run.memory(before, folder / "memory"))
    except TrainingError as error:
        reason, begun, _ = str(error).partition(": give another --run")
        if not begun:
            raise
        raise NotMeasured(
            f"{reason}: keep to those settings, delete {folder} to train this pair anew, or give other --runs"
        ) from error


def _sized(config: TrainConfig, hard: int, confident: int) -> TrainConfig:
    """The same run with other memory sizes. Raises ValueError where they are none."""
    mar = config.network.mar
    assert mar is not None
    values = 1 if mar.values_per_class == 1 else hard
    network: SegmenterConfig = dataclasses.replace(
        config.network, mar=dataclasses.replace(mar, hard_per_class=hard, values_per_class=values)
    )
    return dataclasses.replace(
        config, network=network, memory=dataclasses.replace(config.memory, confident_per_class=confident)
    )

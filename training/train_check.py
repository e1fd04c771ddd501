"""What can be known wrong with a run before any work begins: machine, network, step, data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from numpy.typing import NDArray

from stmem_ros.checkpoint import load_checkpoint
from stmem_ros.files import one_line
from stmem_ros.network import BASES, build_segmenter
from stmem_ros.network.segmenter import empty_segmenter
from training.data.dataset import DatasetSpec, LabelledFrame, require_classes
from training.data.overlap import overlap, overlap_line
from training.stages.base_stage import BaseStage
from training.stages.given_memory import load_memory
from training.stages.harness import processes
from training.stages.memory import Memory
from training.stages.stage_folder import TrainingError
from training.train_config import TrainConfig


def check_machine(config: TrainConfig) -> None:
    """Raises TrainingError if this machine, or how the processes were started, does not fit the settings."""
    started, devices, nodes = processes()[1], config.devices, config.nodes
    if devices * nodes != started:
        machines, of_run = (f"--nnodes {nodes} ", f" --nodes {nodes}") if nodes > 1 else ("", "")
        or_else = f", or say --devices {started // nodes}" if started > 1 and started % nodes == 0 else ""
        raise TrainingError(
            f"devices x nodes is {devices * nodes}, the processes are {started}: start with "
            # Without the -- torchrun takes --run for an option of its own.
            f"torchrun {machines}--nproc-per-node {devices} -m training.train -- CONFIG.yaml --devices {devices}"
            f"{of_run}{or_else}"
        )
    cuda = CUDAAccelerator.is_available()
    gpu = config.accelerator != "cpu" and (cuda or MPSAccelerator.is_available())
    if config.accelerator == "gpu" and not gpu:
        raise TrainingError("accelerator is gpu, but PyTorch finds no GPU here: write cpu or auto")
    if gpu and cuda and config.devices > torch.cuda.device_count():
        raise TrainingError(
            f"devices is {config.devices}, but this machine has {torch.cuda.device_count()} GPUs: give as many at most"
        )
    if config.precision == "16-mixed" and not gpu:
        raise TrainingError("precision is 16-mixed, which needs a GPU: write 32-true or bf16-mixed")


def check_network(config: TrainConfig, spec: DatasetSpec) -> None:
    """Raises ValueError if the network's parts do not fit each other, or the data set."""
    network, classes = config.network, len(spec.labels)
    if network.classes != classes:
        raise ValueError(f"network.classes is {network.classes}, but data set {spec.name} has {classes} classes")
    if network.mar is not None:
        named = network.mar.memory_classes
        if named > classes or (named < classes and not config.memory.allow_missing):
            raise ValueError(
                f"network.mar.memory_classes is {named}, but data set {spec.name} has {classes} classes, each of which "
                f"gets a memory: write {classes} (with memory.allow_missing it may be less)"
            )
    try:
        if network.base in BASES:
            empty_segmenter(network)
        else:
            build_segmenter(network)
    except ValueError as error:
        raise ValueError(f"network.{one_line(error)}") from error


def check_start(config: TrainConfig, spec: DatasetSpec) -> None:
    """Raises ValueError, CheckpointError and DatasetError if the file `start_from` cannot stand for stage 1."""
    assert config.start_from is not None
    _, info = load_checkpoint(config.start_from)
    if info.config.base != config.network.base:
        raise ValueError(
            f"start_from {config.start_from} has the base network {info.config.base}, network.base is "
            f"{config.network.base}"
        )
    require_classes(info.labels, spec, config.start_from)


def given_memory(config: TrainConfig, spec: DatasetSpec) -> Memory | None:
    """The memory of `memory.file`. Raises ValueError, MemoryBankError and WeightsError if it does not fit."""
    file, mar = config.memory.file, config.network.mar
    if file is None:
        return None
    if mar is None:
        raise ValueError("memory.file is for MAR, but network.mar is not set")
    memory = load_memory(Path(file), spec.labels)
    _, keys, channels = memory.keys.shape
    if keys != mar.hard_per_class:
        raise ValueError(
            f"memory.file {file} has {keys} keys a class, network.mar.hard_per_class is {mar.hard_per_class}: they "
            "must be the same"
        )
    ours = empty_segmenter(config.network).base.channels
    if channels != ours:
        raise ValueError(
            f"memory.file {file} has features of {channels} channels, those of {config.network.base} have {ours}: "
            "give a memory of this base network"
        )
    return memory


def check_step(config: TrainConfig, frames: int) -> None:
    """Raises TrainingError if a step of stage 1 cannot be made of the settings and so many frames."""
    world = processes()[1]
    sizes = {"base": config.base, "stf": config.stf, "mar": config.mar}
    for name, stage in sizes.items():
        if stage.batch_size % world:
            raise TrainingError(
                f"{name}.batch_size is {stage.batch_size}; {world} processes must be able to share it evenly"
            )
    if config.start_from is not None or config.network.base not in BASES:
        return
    batch = min(config.base.batch_size // world, -(-frames // world))
    if batch > 1:
        return
    with torch.device("meta"):
        learner = BaseStage(empty_segmenter(config.network), config.base, torch.ones(config.network.classes))
        images = torch.zeros(1, 3, *config.augment.crop)
    try:
        # On PyTorch's meta device: shapes alone, no arithmetic.
        _, deep = learner.train().model.base.forward_with_deep(images)
        learner.auxiliary(deep)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        if config.base.batch_size // world == batch:
            wrong = f"base.batch_size is {config.base.batch_size}" + (f" for {world} processes" if world > 1 else "")
        else:
            wrong = f"split {config.train_split} has {frames} labelled frame{'s' * (frames > 1)}"
        raise TrainingError(
            f"{wrong}: BatchNorm in {config.network.base} needs at least 2 images in each step of a process; give it "
            "more, or train over a checkpoint (start_from)"
        ) from error


def notes(
    config: TrainConfig, spec: DatasetSpec, frames: list[LabelledFrame], validation: list[LabelledFrame]
) -> list[str]:
    """Lines on what is allowed, but may not be what was meant."""
    found = []
    shared = overlap(frames, validation, spec.read_image)
    if shared:
        found.append(overlap_line(shared, config.train_split, config.val_split))
    for name, stage in {"base": config.base, "stf": config.stf, "mar": config.mar}.items():
        used = name == "base" or getattr(config.network, name) is not None
        if used and stage.batch_size > len(frames):
            found.append(
                f"{name}.batch_size is {stage.batch_size}, {config.train_split} has {len(frames)} frames: each step "
                "takes them all"
            )
    return found


def check_memory_classes(config: TrainConfig, pixels: NDArray[np.int64], spec: DatasetSpec) -> None:
    """Raises TrainingError if a class, of so many `pixels`, cannot get a memory: that would show after other stages."""
    if config.network.mar is None or config.memory.allow_missing or config.memory.file is not None:
        return
    absent = [name for name, count in zip(spec.labels.names, pixels, strict=True) if not count]
    if absent:
        raise TrainingError(
            f"split {config.train_split} has no pixel of {', '.join(absent)}, so no memory can be made of them: "
            "memory.allow_missing true leaves these classes without one"
        )

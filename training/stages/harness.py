"""What every stage needs around Lightning: a folder that resumes, checkpoints that are whole, loud errors."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import pickle
import signal
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import EMAWeightAveraging, LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset

from stmem_ros.files import whole_file


class TrainingError(Exception):
    """Training that cannot begin or go on: one line with the place, the reason and what to do."""


def processes() -> tuple[int, int]:
    """(rank, how many): of the processes that torchrun started, (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


class StageFolder:
    """The folder of one stage of a run: its settings, logs, checkpoints and result."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last, self.best = path / "last.ckpt", path / "best.ckpt"
        self._settings = path / "stage.json"

    def begin(self, settings: dict[str, Any], done: bool = False) -> None:
        """Note what decides the stage's outcome, or see that it is what the stage was begun with.

        Which weights to keep may be decided anew as long as the stage is not `done`, and where there is no choice.
        Raises TrainingError where anything else differs: a stage is never half of one thing and half of another.
        """
        settings, before = json.loads(json.dumps(settings)), None
        if self._settings.is_file():
            try:
                before = json.loads(self._settings.read_text())
            except (OSError, ValueError) as error:
                raise TrainingError(
                    f"{self._settings} cannot be read ({error}); delete {self.path} to start over"
                ) from error
            free = () if done and self.best.is_file() else ("keep",)
            differing = next((each for each in _differences(before, settings) if each[0] not in free), None)
            if differing is not None:
                name, then, now = differing
                raise TrainingError(
                    f"{self.path} was begun with {name} = {then}, now it is {now}: "
                    "give another --run, or delete that folder to start this stage over"
                )
        if before != settings and processes()[0] == 0:
            try:
                with whole_file(self._settings) as partial:
                    partial.write_text(json.dumps(settings, indent=2) + "\n")
            except OSError as error:
                raise TrainingError(f"{self._settings} could not be written: {error.strerror or error}") from error

    def kept(self, keep: str) -> str:
        """`keep`, best or last; last where no validation has found a best."""
        return keep if self.best.is_file() else "last"

    def resume_from(self) -> Path | None:
        """The checkpoint of the last whole epoch, None where there is none. Raises TrainingError if it is damaged."""
        if not self.last.is_file():
            return None
        try:
            torch.load(self.last, "cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())
            raise TrainingError(
                f"{self.last} is damaged ({reason}): delete {self.path} to start this stage over"
            ) from error
        return self.last


def _differences(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(key for key in now if key not in before)]:
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield name, before, now


def digest(document: dict[str, Any]) -> str:
    """Eight characters that differ where the documents do."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:8]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class WholeCheckpointIO(TorchCheckpointIO):
    """Checkpoints written whole or not at all: a full disk or a kill leaves the one before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        try:
            with whole_file(Path(path)) as partial:
                torch.save(checkpoint, partial)
        except (OSError, RuntimeError) as error:
            # PyTorch's file writer raises RuntimeError where the disk is full.
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise TrainingError(
                f"{path} could not be written: {reason}; free some disk and start the same command again, "
                "it goes on from the last whole epoch"
            ) from error


class SeededSteps(L.Callback):
    """Every step draws its own random numbers (dropout), the same in a run that was stopped before it."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_batch_start(self, trainer: L.Trainer, stage: L.LightningModule, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(hash((self._seed, trainer.current_epoch, batch_idx, trainer.global_rank)) % 2**31)


class FiniteLoss(L.Callback):
    """Stops a training whose loss is no number before it reaches the weights."""

    def on_before_backward(self, trainer: L.Trainer, stage: L.LightningModule, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss.item()} in epoch {trainer.current_epoch}, step {trainer.global_step}: lower "
                "the stage's learning rates, or train with precision 32-true; the last whole epoch is kept"
            )


def make_trainer(
    folder: StageFolder,
    *,
    seed: int,
    epochs: int,
    validate_every: int,
    ema_decay: float,
    gradient_clip: float,
    max_steps: int = -1,
    accelerator: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    precision: str = "32-true",
) -> L.Trainer:
    """One stage's trainer: averaged weights, `last.ckpt` each epoch, `best.ckpt` by val_miou, CSV and TensorBoard."""
    quiet_lightning()
    return L.Trainer(
        default_root_dir=folder.path,
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
        precision=precision,  # type: ignore[arg-type]
        max_epochs=epochs,
        max_steps=max_steps,
        gradient_clip_val=gradient_clip,
        check_val_every_n_epoch=validate_every,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
        enable_model_summary=False,
        plugins=[WholeCheckpointIO()],
        logger=[CSVLogger(folder.path, name="csv"), TensorBoardLogger(folder.path, name="tensorboard", version="")],
        callbacks=[
            SeededSteps(seed),
            FiniteLoss(),
            EMAWeightAveraging(decay=ema_decay),
            ModelCheckpoint(folder.path, "best", monitor="val_miou", mode="max", enable_version_counter=False),
            # Every epoch, the newest alone (save_last with save_top_k=0 would write when all epochs are over).
            ModelCheckpoint(folder.path, "last", enable_version_counter=False, save_on_train_epoch_end=True),
            LearningRateMonitor("step"),
            TQDMProgressBar(),
        ],
    )


def quiet_lightning() -> None:
    """Its advice on workers, loggers and batches is for its own users."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*")


def train_loader(
    dataset: Dataset, batch_size: int, seed: int, workers: int, collate: Callable[[list], Any] | None = None
) -> DataLoader:
    """Shuffled by seed and epoch alone, so that a run that was stopped goes on with the same batches.

    Several processes share each batch of `batch_size`. Raises TrainingError where they cannot.
    """
    rank, world = processes()
    if batch_size % world:
        raise TrainingError(f"batch_size is {batch_size}; {world} processes must be able to share it evenly")
    size = len(dataset)  # type: ignore[arg-type]
    return DataLoader(
        dataset,
        batch_size // world,
        sampler=DistributedSampler(dataset, num_replicas=world, rank=rank, seed=seed),
        drop_last=size > batch_size,
        num_workers=workers,
        collate_fn=collate,
    )


def validation_loader(dataset: Dataset, workers: int, collate: Callable[[list], Any] | None = None) -> DataLoader:
    """Images one by one, in order, each in one process."""
    rank, world = processes()
    part = Subset(dataset, range(rank, len(dataset), world))  # type: ignore[arg-type]
    return DataLoader(part, num_workers=workers, collate_fn=collate)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C as everywhere: where Lightning would end the process, deaf to another one."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


def fit(
    trainer: L.Trainer,
    stage: L.LightningModule,
    folder: StageFolder,
    train: DataLoader,
    validation: DataLoader,
    keep: str = "last",
) -> dict[str, float]:
    """Train from where the folder stands to the end; `stage` then holds averaged weights: the last, or the best.

    Returns their figures on the validation split. Raises TrainingError.
    """
    with _interruptible():
        trainer.fit(stage, train, validation, ckpt_path=folder.resume_from())
    trainer.strategy.barrier()
    kept = folder.kept(keep)
    if kept != keep and processes()[0] == 0:
        print(
            f"training: {folder.path} ended before its first validation: its last weights are kept, as no best is known"
        )
    # The averaged weights, also where the run was over and `fit` returned without averaging; and their own figures.
    path = folder.best if kept == "best" else folder.last
    stage.load_state_dict(torch.load(path, "cpu", weights_only=True)["state_dict"])
    with torch.no_grad(), _interruptible():
        figures = trainer.validate(stage, validation, verbose=False)[0]
    return {name: float(value) for name, value in figures.items()}

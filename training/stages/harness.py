"""What every stage needs around Lightning: training that resumes, checkpoints that are whole, loud errors."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, TQDMProgressBar, WeightAveraging
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset

from stmem_ros.files import one_line, whole_file
from training.stages.stage_folder import StageFolder, TrainingError


def processes() -> tuple[int, int]:
    """(rank, how many): of the processes that torchrun started, (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


class WholeCheckpointIO(TorchCheckpointIO):
    """Checkpoints written whole or not at all: a full disk or a kill leaves the one before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        reason: BaseException | None = None
        try:
            with whole_file(Path(path)) as partial, partial.open("wb") as file:
                sink = _Sink(file)
                try:
                    torch.save(checkpoint, sink)
                except RuntimeError as error:
                    # PyTorch turns what happens in `write` into an error of its own, which does not say why.
                    raise sink.error or error from error
        except (OSError, RuntimeError) as error:
            reason = error
        if reason is not None:
            raise TrainingError(
                f"{path} could not be written: {getattr(reason, 'strerror', None) or one_line(reason)}; free some disk "
                "and start the same command again, it goes on from the last whole epoch"
            ) from reason


class _Sink:
    """A file that is written to, and the error with which that failed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.error = file, None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self._file.flush()


def average(decay: float) -> WeightAveraging:
    """The exponential moving average of the weights; what does not change stays the same to the last bit.

    PyTorch's own form, decay * average + (1 - decay) * weight, rounds it a little in every step.
    """

    def update(averaged: Tensor, weight: Tensor, _: Any) -> Tensor:
        if not averaged.is_floating_point():
            return weight
        return averaged.lerp(weight, 1 - decay)

    return WeightAveraging(avg_fn=update)


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


class ProgressBar(TQDMProgressBar):
    """Lightning's, which ends its line where the training is stopped, so that the reason stands on one of its own."""

    def on_exception(self, trainer: L.Trainer, stage: L.LightningModule, exception: BaseException) -> None:
        for bar in (self._val_progress_bar, self._train_progress_bar):
            if bar is not None:
                bar.close()


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
            average(ema_decay),
            ModelCheckpoint(folder.path, "best", monitor="val_miou", mode="max", enable_version_counter=False),
            # Every epoch, the newest alone (save_last with save_top_k=0 would write when all epochs are over).
            ModelCheckpoint(folder.path, "last", enable_version_counter=False, save_on_train_epoch_end=True),
            LearningRateMonitor("step"),
            ProgressBar(),
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
    resumed = folder.last if folder.last.is_file() else None
    if resumed is None:
        # Of a first epoch that was cut off, perhaps with other settings.
        if processes()[0] == 0:
            folder.best.unlink(missing_ok=True)
    else:
        _require_same_network(stage, resumed, folder)
    with _interruptible():
        trainer.fit(stage, train, validation, ckpt_path=resumed)
    trainer.strategy.barrier()
    kept = folder.kept(keep)
    if kept != keep and processes()[0] == 0:
        print(
            f"training: {folder.path} ended before its first validation: its last weights are kept, as no best is known"
        )
    # The stage gets the weights that are kept: averaging would validate its own, the last ones, in their place.
    trainer.callbacks = [each for each in trainer.callbacks if not isinstance(each, WeightAveraging)]  # type: ignore[attr-defined]
    # The averaged weights, also where the run was over and `fit` returned without averaging; and their own figures.
    path = folder.best if kept == "best" else folder.last
    _require_same_network(stage, path, folder)
    stage.load_state_dict(folder.read_checkpoint(path)["state_dict"])
    with torch.no_grad(), _interruptible():
        figures = trainer.validate(stage, validation, verbose=False)[0]
    return {name: float(value) for name, value in figures.items()}


def _require_same_network(stage: L.LightningModule, path: Path, folder: StageFolder) -> None:
    """Raises TrainingError if the checkpoint `path` is damaged, or another network's."""
    theirs = {name: tuple(tensor.shape) for name, tensor in folder.read_checkpoint(path)["state_dict"].items()}
    ours = {name: tuple(tensor.shape) for name, tensor in stage.state_dict().items()}
    differing = next((name for name in [*ours, *theirs] if ours.get(name) != theirs.get(name)), None)
    if differing is not None:
        raise TrainingError(
            f"{path} is of another network: its {differing} is {theirs.get(differing, 'missing')}, not "
            f"{ours.get(differing, 'there')}: delete {folder.path} to start this stage over"
        )

"""A loaded model, and the thread that loads another one beside it."""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import os
import threading
from collections.abc import Callable, Collection
from pathlib import Path

import torch

from stmem_ros.checkpoint import DEFAULT_CHECKPOINT, EXPORT_DOCUMENT, CheckpointError, find_checkpoint, read_info
from stmem_ros.decode import ImageError
from stmem_ros.files import kind_and_line, one_line
from stmem_ros.node.settings import ModelSettings
from stmem_ros.streaming import DeviceError, StreamingSegmenter, resolve_device
from stmem_ros.streaming.device import resolve_precision
from stmem_ros.streaming.exported import read_export

# Seconds that a lifecycle transition, or the end, waits for a model that is being loaded.
PATIENCE_S = 2.0
# Device, inode, size and time of the last change.
FileIdentity = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Model:
    """A network that is ready, and what it was made of. Cameras run on siblings of `engine`.

    `sha256` and `file` are of the checkpoint file; of an exported folder, of its document, which holds those of the
    rest.
    """

    settings: ModelSettings
    path: Path
    sha256: str
    engine: StreamingSegmenter
    file: FileIdentity | None = None

    def line(self) -> str:
        """What runs and what was chosen for it, for people."""
        engine = self.engine
        return (
            f"model {self.path}, {len(engine.info.labels)} classes, window {self.settings.window} of {engine.length}, "
            f"short side {engine.config.short_side or 'as trained'}, {str(engine.dtype).removeprefix('torch.')} on "
            f"{engine.device}, {torch.get_num_threads()} CPU threads"
        )

    def is_made_of(self, settings: ModelSettings) -> bool:
        """Whether loading these settings now would give this model again."""
        return settings == self.settings and self.file is not None and identity_of(self.path) == self.file

    def describe(self) -> dict[str, str]:
        """Names and values for diagnostics."""
        values = {
            "checkpoint": str(self.path),
            "model": self.path.name,
            "sha256": self.sha256,
            "classes": str(len(self.engine.info.labels)),
            "window": f"{self.settings.window} of {self.engine.length}",
            "device": str(self.engine.device),
            "precision": str(self.engine.dtype).removeprefix("torch."),
            "memory MiB": f"{resident_mib():.0f}",
        }
        if self.engine.device.type == "cuda":
            values["GPU memory MiB"] = f"{torch.cuda.memory_allocated(self.engine.device) / 2**20:.0f}"
        return values


def load(settings: ModelSettings, sizes: Collection[tuple[int, int]] = ()) -> Model:
    """Load, and warm up on images of these sizes `(height, width)`, or of a usual one where there is none.

    Raises CheckpointError, DeviceError, ImageError or ValueError, one line.
    """
    path = model_path(settings)
    file = identity_of(path)
    before = _sha256_or_none(path)
    engine = StreamingSegmenter.from_checkpoint(path, settings.stream())
    after = _sha256_or_none(path)
    if before is None or (after is not None and after != before):
        raise CheckpointError(f"{path} changed while it was loaded; load it again")
    for size in sizes or (None,):
        engine.warm_up(size)
    return Model(settings, path, before, engine, file)


def identity_of(path: Path) -> FileIdentity | None:
    """What changes when the file does; None where it cannot be looked at."""
    try:
        status = _document(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _document(path: Path) -> Path:
    return path / EXPORT_DOCUMENT if path.is_dir() else path


def _sha256_or_none(path: Path) -> str | None:
    """None where it cannot be read: what loads it says that better."""
    try:
        return sha256_of(path)
    except OSError:
        return None


def model_path(settings: ModelSettings) -> Path:
    return find_checkpoint(settings.checkpoint or DEFAULT_CHECKPOINT)


def check(settings: ModelSettings) -> None:
    """What can be known before the weights are read. Raises CheckpointError, DeviceError or ValueError, one line."""
    stream = settings.stream()
    resolve_precision(stream.precision, resolve_device(stream.device))
    path = model_path(settings)
    if path.is_dir():
        read_export(path)
    else:
        read_info(path)


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with _document(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def resident_mib() -> float:
    """What this process has in memory; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def give_back_memory() -> None:
    """Give what was freed back to the system: glibc keeps a model's memory else. Nothing with another C library."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def give_back_gpu_memory() -> None:
    """The same of what PyTorch keeps on a GPU, for others there. Not while the network runs."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def reason(error: Exception) -> str:
    """Why loading failed, on one line; the kind of error too where nobody expected it."""
    known = isinstance(error, CheckpointError | DeviceError | ImageError | ValueError)
    return one_line(error) if known else kind_and_line(error)


class Loader:
    """Loads what was asked for last in a thread that lives only while there is something to load.

    `loaded` and `failed` are called in that thread, and not for what nobody wants any more; `sizes` says of which sizes
    the cameras' images are.
    """

    def __init__(
        self,
        loaded: Callable[[Model], None],
        failed: Callable[[ModelSettings, str], None],
        sizes: Callable[[], Collection[tuple[int, int]]],
    ) -> None:
        self._loaded, self._failed, self._sizes = loaded, failed, sizes
        self._lock = threading.Lock()
        self._wanted: ModelSettings | None = None
        self._thread: threading.Thread | None = None

    @property
    def wanted(self) -> ModelSettings | None:
        """What is being loaded."""
        return self._wanted

    def ask(self, settings: ModelSettings | None) -> None:
        """Load this in place of what is being loaded; None: nothing."""
        with self._lock:
            self._wanted = settings
            if settings is not None and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="model loader")
                self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether the thread is at work, also on what nobody wants any more."""
        return self._thread is not None

    def close(self) -> None:
        """Want nothing any more, and wait for the thread, but not for a network that takes longer than PATIENCE_S."""
        self.ask(None)
        thread = self._thread
        if thread is not None:
            thread.join(PATIENCE_S)

    def _run(self) -> None:
        while (settings := self._next()) is not None:
            model, why = None, ""
            try:
                model = load(settings, self._sizes())
            except Exception as error:
                # A thread's exception would be lost; the caller says it and goes on with the model that it has.
                why = reason(error)
            with self._lock:
                if self._wanted is not settings:
                    continue
                self._wanted = None
                if model is not None:
                    self._loaded(model)
                else:
                    self._failed(settings, why)

    def _next(self) -> ModelSettings | None:
        with self._lock:
            if self._wanted is None:
                self._thread = None
            return self._wanted

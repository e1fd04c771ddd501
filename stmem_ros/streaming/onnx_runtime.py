"""An exported network, run by ONNX Runtime in place of PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from stmem_ros.checkpoint import CheckpointError
from stmem_ros.files import one_line
from stmem_ros.streaming.device import DeviceError, resolve_device
from stmem_ros.streaming.exported import FRAME, Export, fusion_files, state_names

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
ERRORS_ONLY = 3


class OnnxNetwork:
    """`frame` and `predict` of a `StreamingNetwork`, for one kind of window.

    What is known of a frame stays where it was computed, as ONNX Runtime's own values. With as many CPU threads as
    PyTorch has when this is made.
    """

    def __init__(self, export: Export, window: str, device: str = "auto", precision: str = "auto") -> None:
        """Raises CheckpointError, for a missing ONNX Runtime too, and DeviceError."""
        if precision not in ("auto", "float32"):
            raise DeviceError(
                f"precision {precision} cannot be had from {export.folder}, which is in float32; use auto, or the "
                "checkpoint that it was exported from"
            )
        self._runtime = _import_runtime(export)
        self.device = self._resolve(device)
        self.window_frames = export.info.config.window_frames
        self._export, self._names = export, state_names(export.info.config)
        images = {"images": [export.cameras, 3, *export.size]}
        self._frame = self._session(FRAME, images, self._names)
        shapes = {output.name: output.shape for output in self._frame.get_outputs()}
        state = {f"{name}_{place}": shapes[name] for place in range(self.window_frames) for name in self._names}
        self._fuse = self._session(fusion_files(export.info.config)[window], state, ["logits"])
        shape = self._fuse.get_outputs()[0].shape
        if shape[:2] != [export.cameras, export.info.config.classes] or len(shape) != 4:
            raise CheckpointError(
                f"{export.folder} gives logits of shape {shape} for {export.info.config.classes} classes: "
                "export the network again"
            )

    def frame(self, images: Tensor) -> Any:
        """Normalised images `(N, 3, H, W)` of one moment, of the exported size; for `predict` alone."""
        binding = self._frame.io_binding()
        # The binding reads this array's memory without keeping it alive.
        pixels = images.contiguous().numpy()
        binding.bind_cpu_input("images", pixels)
        return self._run(self._frame, binding, self._names)

    def predict(self, window: Sequence[Any], query: int) -> Tensor:
        """Logits `(N, classes, u*h, u*w)` on the CPU; `query` is what the window's kind says."""
        binding = self._fuse.io_binding()
        for place, frame in enumerate(window):
            for name, value in zip(self._names, frame, strict=True):
                binding.bind_ortvalue_input(f"{name}_{place}", value)
        return torch.from_numpy(self._run(self._fuse, binding, ["logits"])[0].numpy())

    def _run(self, session: Any, binding: Any, outputs: list[str]) -> list[Any]:
        for name in outputs:
            binding.bind_output(name, self.device.type, self.device.index or 0)
        session.run_with_iobinding(binding)
        return binding.get_outputs()

    def _resolve(self, name: str) -> torch.device:
        device = resolve_device(name)
        if device.type == "cpu" or CUDA in self._runtime.get_available_providers():
            return device
        if name == "auto":
            return torch.device("cpu")
        raise DeviceError(
            f"device {name!r} was asked for, but ONNX Runtime {self._runtime.__version__} is built without CUDA; "
            "use device auto or cpu, or pip install onnxruntime-gpu in place of onnxruntime"
        )

    def _session(self, name: str, inputs: dict[str, list[int]], outputs: list[str]) -> Any:
        """Raises CheckpointError where the file is no graph with these inputs and outputs."""
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Else its threads go on spinning when a run is over, and take the cores from whatever comes next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = ERRORS_ONLY
        cuda = self.device.type == "cuda"
        providers = [(CUDA, {"device_id": self.device.index or 0}) if cuda else CPU]
        try:
            session = self._runtime.InferenceSession(self._export.read(name), options, providers=providers)
        except CheckpointError:
            raise
        except Exception as error:
            # Its exceptions have no other base.
            raise CheckpointError(
                f"{self._export.folder / name} cannot be run by ONNX Runtime {self._runtime.__version__}: "
                f"{one_line(error)}"
            ) from error
        if cuda and CUDA not in session.get_providers():
            raise DeviceError(f"ONNX Runtime {self._runtime.__version__} cannot use {self.device}; use device cpu")
        found = {item.name: item.shape for item in session.get_inputs()}
        if found != inputs or [item.name for item in session.get_outputs()] != outputs:
            raise CheckpointError(
                f"{self._export.folder / name} has other inputs or outputs than its document says: export the network "
                "again"
            )
        return session


def _import_runtime(export: Export) -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise CheckpointError(
            f"{export.folder} is an exported network, for ONNX Runtime: pip install onnxruntime ({one_line(error)})"
        ) from error
    return onnxruntime

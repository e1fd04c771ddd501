"""A streaming network as CUDA graphs: one launch for a frame, one for a window, instead of one for each kernel."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from stmem_ros.streaming.exact import FrameFeatures, StreamingNetwork
from stmem_ros.streaming.last_used import LastUsed

_log = logging.getLogger(__name__)
WARM_UP_RUNS = 3
# A graph is for one shape: a frame's and a window's for each size and number of cameras, those used last.
MOST_GRAPHS = 16
# How many calls of a shape go without a graph where there was no memory for it: ten seconds of a camera's.
CALLS_WITHOUT = 300
# PyTorch allows one capture at a time in a process, and a node loads one model while another one runs.
_one_capture = threading.Lock()
Tensors = list[Tensor]


class Replay:
    """`function` at the shapes of `examples`, captured once. A call copies its inputs in and the outputs out."""

    constants: object = None

    def __init__(self, function: Callable[[Tensors], Tensors], examples: Tensors) -> None:
        self._inputs = [example.clone() for example in examples]
        # Libraries choose kernels and allocate when first called, which no capture may hold.
        # Streams and graphs are of the current device, which need not be the tensors'.
        self._device = examples[0].device
        with _one_capture, torch.cuda.device(self._device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            try:
                with torch.cuda.stream(stream):
                    for _ in range(WARM_UP_RUNS):
                        function(self._inputs)
            finally:
                # Where it fails too: what the network keeps for a size may have been made there.
                torch.cuda.current_stream().wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            # Another thread may use the GPU meanwhile, as a node does that runs one model while it loads the next.
            # A stream of this device: PyTorch's own default belongs to the GPU of the process's first graph, and a
            # capture there would record nothing of another GPU's work.
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                self._outputs = function(self._inputs)

    def __call__(self, inputs: Tensors) -> Tensors:
        with torch.cuda.device(self._device):
            for own, given in zip(self._inputs, inputs, strict=True):
                own.copy_(given)
            self._graph.replay()
            return [output.clone() for output in self._outputs]


class Shape:
    """The graph of one shape, None where it is still to be captured: not before `wait` more calls."""

    replay: Replay | None = None
    wait = 0


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether it is that, or comes of it: where memory runs out in a capture, ending that may fail as well."""
    while error is not None:
        if isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in str(error):
            return True
        error = error.__context__
    return False


class GraphedNetwork:
    """`StreamingNetwork` on a GPU through CUDA graphs, one for each size and number of images.

    Where a capture fails it goes on without, and a warning says why. Where it was memory that was missing, as while
    another model is loaded, a later call tries again.
    """

    def __init__(self, network: StreamingNetwork) -> None:
        self.network = network
        self.window_frames = network.window_frames
        self._shapes: LastUsed[object, Shape] = LastUsed(MOST_GRAPHS)
        self._eager = False
        self._kind: FrameFeatures | None = None

    def frame(self, images: Tensor) -> FrameFeatures:
        """As `StreamingNetwork.frame`."""

        def function(tensors: Tensors) -> Tensors:
            self._kind = self.network.frame(tensors[0])
            return self._kind.tensors()

        tensors = self._run("frame", function, [images])
        assert self._kind is not None
        return self._kind.of(tensors)

    def predict(self, window: Sequence[FrameFeatures], query: int) -> Tensor:
        """As `StreamingNetwork.predict`."""
        size = len(window[0].tensors())

        def function(tensors: Tensors) -> Tensors:
            parts = [tensors[start : start + size] for start in range(0, len(tensors), size)]
            return [self.network.predict([window[0].of(part) for part in parts], query)]

        return self._run(query, function, [tensor for frame in window for tensor in frame.tensors()])[0]

    def _run(self, key: object, function: Callable[[Tensors], Tensors], inputs: Tensors) -> Tensors:
        if self._eager:
            return function(inputs)
        shape = self._shapes.get((key, *(tensor.shape for tensor in inputs)), Shape)
        if shape.wait:
            shape.wait -= 1
        elif shape.replay is None:
            self._capture(shape, function, inputs)
        # Only here: an error would hold the memory of the capture that failed.
        return function(inputs) if shape.replay is None else shape.replay(inputs)

    def _capture(self, shape: Shape, function: Callable[[Tensors], Tensors], inputs: Tensors) -> None:
        try:
            shape.replay = Replay(function, inputs)
        except RuntimeError as error:
            where = "running without CUDA graphs"
            if is_out_of_memory(error):
                shape.wait = CALLS_WITHOUT
                where = f"running the next {CALLS_WITHOUT} frames of this size without a CUDA graph"
            else:
                self._eager = True
            _log.warning("%s, slower: %s", where, " ".join(str(error).split()))
        else:
            # It reads them where they are, also when the network has forgotten that size.
            shape.replay.constants = self.network.constants()

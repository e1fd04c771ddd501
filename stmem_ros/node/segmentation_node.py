"""The lifecycle node: cameras' images in, label images out."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn

from stmem_ros.files import one_line
from stmem_ros.node import diagnostics
from stmem_ros.node.arguments import left_over, misdirected, refusal, unmatched
from stmem_ros.node.camera import COMPRESSED
from stmem_ros.node.health import Judge
from stmem_ros.node.label_info import MISSING, vision_messages
from stmem_ros.node.lifecycle import end_soon, forget_destroyed, spin
from stmem_ros.node.live import LiveParameters
from stmem_ros.node.managed import ManagedNode, explained
from stmem_ros.node.model import Model, give_back_gpu_memory, give_back_memory, load, reason
from stmem_ros.node.parameters import declare_parameters
from stmem_ros.node.services import SERVICES, Services
from stmem_ros.node.settings import (
    FrameSettings,
    InputSettings,
    ModelSettings,
    Thresholds,
    group,
    read,
    read_values,
    value_of,
)
from stmem_ros.node.statistics import Complaints
from stmem_ros.node.stream import THE_TOPIC, Stream, enabled_names, places
from stmem_ros.node.worker import Worker
from stmem_ros.program import begin, called


class SegmentationNode(ManagedNode):
    """Wiring: parameters, one stream a camera, one worker thread, services, diagnostics.

    The executor's thread stores the newest message of each camera; the worker decodes, segments and publishes.
    `streams` and `model` are there while the node is configured.
    """

    def __init__(self, arguments: Sequence[str] = (), **options: Any) -> None:
        """`arguments` are those of the process: what of them has no effect is said."""
        super().__init__("segmentation", **options)
        self._arguments = arguments
        declare_parameters(self)
        self._complain = Complaints(self.warn, self.error)
        self.streams: list[Stream] = []
        self.model: Model | None = None
        self._judges: list[Judge] = []
        self._inputs: InputSettings | None = None
        self._worker: Worker | None = None
        self._finalized = False
        self._default_threads = torch.get_num_threads()
        self._vision_messages = vision_messages()
        # True once we have warned that vision_msgs is not installed.
        self._told = False
        # Whether a model was freed since the last look.
        self._freed = False
        self._live = LiveParameters(self)
        self._diagnostics = self.create_publisher(DiagnosticArray, diagnostics.TOPIC, diagnostics.QOS)
        # Steady: health is reported also where simulated time stands still.
        self.create_timer(diagnostics.PERIOD_S, self._every_second, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._requests = Services(self)
        self.warn_of_unknown_overrides(of_qos=False, known=set())

    # Lifecycle

    def start(self) -> None:
        """Configure and activate if parameter autostart says so; else say what the node waits for."""
        if self.unusable:
            self.fail(f"cannot configure: {'; '.join(self.unusable.values())}")
        elif not value_of(self, "autostart"):
            name = self.get_fully_qualified_name()
            self.info(
                "autostart is false: waiting for a lifecycle manager, or for "
                f"`ros2 lifecycle set {name} configure` and `ros2 lifecycle set {name} activate`"
            )
        elif self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and warm it up; fails, saying why, where a parameter or the checkpoint is unusable."""
        try:
            if self.unusable:
                raise ValueError("; ".join(self.unusable.values()))
            values = read_values(self)
            self._inputs = group(InputSettings, values)
            wanted = places(self, self._inputs)
            torch.set_num_threads(self._inputs.threads or self._default_threads)
            settings = group(ModelSettings, values)
            self.info(f"configuring: {settings.line()}")
            began = time.monotonic()
            self.model = load(settings)
            self.debug(lambda: f"loaded and warmed up in {time.monotonic() - began:.1f} s")
            for place in wanted:
                # One by one: where the second fails, the first is released.
                self.streams.append(Stream(self, place, self._vision_messages, self._complain))
            self._judges = [Judge(stream) for stream in self.streams]
            self.enable_cameras(values["enabled_cameras"])
        except Exception as error:
            # rclpy says nothing of what a transition raises.
            self._release()
            return self.fail(f"cannot configure: {reason(error)}")
        self.failure = ""
        self._live.model_failure = ""
        for stream in self.streams:
            stream.use(self.model)
        if self._vision_messages is None and not self._told:
            self._told = True
            self.warn(MISSING)
        known = {name for stream in self.streams for name in stream.override_names(self._inputs.image_transport)}
        self.warn_of_unknown_overrides(of_qos=True, known=known)
        for line in unmatched(self._arguments, self._names(), self.get_name(), self.get_namespace()):
            self.warn(line)
        self.info(f"configured: {self.model.line()}, cameras: {len(self.streams)}")
        return super().on_configure(state)

    @explained
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Listen to the cameras and start the worker."""
        assert self._inputs is not None and self.model is not None
        worker = Worker(
            self.get_clock(),
            lambda: read(self, FrameSettings),
            self._swap_model,
            self._complain,
            self.context.ok,
            self.debug,
        )
        try:
            for stream in self.streams:
                stream.listen(self._inputs, worker.mailbox)
        except Exception as error:
            for stream in self.streams:
                stream.stop_listening()
            return self.fail(f"cannot subscribe: {reason(error)}")
        self._worker = worker
        result = super().on_activate(state)
        # Publishers are on by now: whoever waits for the classes gets them.
        self._use_model(self._live.take_model() or self.model)
        worker.start()
        self.failure = ""
        cameras = ", ".join(stream.topic for stream in self.streams)
        disabled = "" if self._requests.enabled else ", disabled by ~/enable"
        self.info(f"active: waiting for images on {cameras}{disabled}")
        return result

    @explained
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_work()
        self.info("deactivated: images are ignored, the model stays loaded")
        return super().on_deactivate(state)

    @explained
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        self.failure = ""
        self.info("cleaned up: the model is unloaded")
        return super().on_cleanup(state)

    @explained
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_work()
        self._release()
        self.failure, self._finalized = "", True
        self.info("shut down: start the node anew to segment again")
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_work()
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        self._stop_work()
        self._live.close()
        super().destroy_node()

    def _stop_work(self) -> None:
        for stream in self.streams:
            stream.stop_listening()
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
        for stream in self.streams:
            if stream.engine is not None:
                stream.engine.reset()

    def _release(self) -> None:
        self._live.close()
        for stream in self.streams:
            stream.destroy()
        self.streams, self._judges, self.model = [], [], None
        self._freed = True

    # The model

    @property
    def loading(self) -> bool:
        """Whether a model is still being loaded, wanted or not."""
        return self._live.busy

    def model_ready(self) -> None:
        """Another model waits in `_live`: take it between two frames."""
        if self._worker is not None:
            self._worker.mailbox.wake()
        elif self.model is not None:
            self._swap_model()

    def _swap_model(self) -> None:
        model = self._live.take_model()
        if model is not None:
            self._use_model(model)
            give_back_gpu_memory()
            self._freed = True
            self.info(f"now {model.line()}")

    def _use_model(self, model: Model) -> None:
        self.model = model
        if self._worker is not None:
            self._worker.table = model.engine.info.labels.lookup_table()
            self._worker.most_together = model.engine.most_together
        for stream in self.streams:
            stream.use(model)

    # Executor thread

    def enable_cameras(self, wanted: list[str]) -> None:
        """Segment the cameras of these names, all where there is none. Raises ValueError for an unknown name.

        Without streams names are looked at when the node is configured.
        """
        if not self.streams:
            return
        among = enabled_names(self.streams, wanted)
        for stream in self.streams:
            stream.enable(self._requests.enabled and among(stream))

    def _names(self) -> set[str]:
        """The topics and services that a remapping can be of, as the node names them."""
        # The launch file remaps the one topic also where several take its place.
        fixed = {THE_TOPIC, f"{THE_TOPIC}{COMPRESSED}", diagnostics.TOPIC, "/clock", "/rosout", "/parameter_events"}
        return fixed.union(SERVICES, *(stream.names() for stream in self.streams))

    @property
    def state(self) -> str:
        """Of the lifecycle, for people."""
        if self._worker is not None:
            return "active"
        if self.model is not None:
            return "inactive"
        return "finalized" if self._finalized else "unconfigured"

    def _every_second(self) -> None:
        thresholds = read(self, Thresholds)
        prefix = self.get_fully_qualified_name()
        forget_destroyed(self)
        status = [
            diagnostics.node_status(prefix, self.state, self.failure),
            *(
                diagnostics.stream_status(prefix, stream, judge(thresholds), self.model, self._complain)
                for stream, judge in zip(self.streams, self._judges, strict=True)
            ),
        ]
        if self.model is not None:
            status.append(diagnostics.model_status(prefix, self.model, self._live))
        if self._freed:
            # Not at once, while the worker may still hold it.
            self._freed = False
            give_back_memory()
        array = DiagnosticArray(status=status)
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)


def main(args: list[str] | None = None) -> int:
    """Run the node until Ctrl-C. Exit code 0 then; 1 after one line if ROS cannot start it, 2 for unknown arguments."""
    arguments = sys.argv[1:] if args is None else args
    parser = argparse.ArgumentParser(
        prog=called("stmem_ros.node.segmentation_node"),
        description=__doc__,
        epilog="Parameters and remappings are given as to every ROS 2 node: --ros-args -p short_side:=360 "
        "-r image:=/camera/image_raw; docs/topics.md lists them. `ros2 launch stmem_ros segment.launch.py` sets them.",
    )
    try:
        unknown = left_over(parser, arguments)
        if unknown:
            return _refuse(unknown, 2)
        begin()
        rclpy.init(args=arguments)
    except RuntimeError as error:
        return _refuse(refusal(error))
    executor = SingleThreadedExecutor()
    node = None
    code = 0
    try:
        node = SegmentationNode(arguments)
        for line in misdirected(arguments, node.get_fully_qualified_name()):
            node.warn(line)
        executor.add_node(node)
        node.start()
        spin(executor, node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except ParameterException as error:
        code = _refuse(one_line(error))
    except Exception:
        # Ctrl-C while the node starts takes the graph away from under it.
        if rclpy.ok():
            raise
    finally:
        # A second Ctrl-C must not interrupt the end.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        end_soon()
        if node is not None:
            node.destroy_node()
        executor.shutdown()
        rclpy.try_shutdown()
    if node is not None and node.loading:
        # Python would wait for the network's first pass, minutes for a large one; nothing of it is wanted any more.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _refuse(line: str, status: int = 1) -> int:
    print(f"segmentation: {line}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())

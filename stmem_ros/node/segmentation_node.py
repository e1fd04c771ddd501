"""The lifecycle node: cameras' images in, label images out."""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.utilities import remove_ros_args
from std_srvs.srv import SetBool, Trigger

from stmem_ros.files import kind_and_line, one_line
from stmem_ros.node import diagnostics
from stmem_ros.node.health import Judge
from stmem_ros.node.label_info import MISSING, vision_messages
from stmem_ros.node.lifecycle import end_soon, forget_destroyed, spin, survive_invalid_transitions
from stmem_ros.node.live import LiveParameters
from stmem_ros.node.model import Model, give_back_gpu_memory, give_back_memory, load, reason
from stmem_ros.node.parameters import declare_parameters
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
from stmem_ros.node.stream import Stream, enabled_names, places
from stmem_ros.node.worker import Worker

Transition = Callable[["SegmentationNode", LifecycleState], TransitionCallbackReturn]


def explained(transition: Transition) -> Transition:
    """rclpy takes what a transition raises for an error, and says nothing of it."""

    @functools.wraps(transition)
    def run(node: SegmentationNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception as error:
            node.fail(f"{transition.__name__} failed: {kind_and_line(error)}")
            return TransitionCallbackReturn.ERROR

    return run


# Name: (type, meaning).
SERVICES = {
    "~/reset": (Trigger, "forget the window; the next frame starts a new one"),
    "~/enable": (SetBool, "ignore images, or segment again"),
}


class SegmentationNode(LifecycleNode):
    """Wiring: parameters, one stream a camera, one worker thread, services, diagnostics.

    The executor's thread stores the newest message of each camera; the worker decodes, segments and publishes.
    `streams` and `model` are there while the node is configured.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("segmentation", **options)
        declare_parameters(self)
        self._complain = Complaints(self._warn)
        self.streams: list[Stream] = []
        self.model: Model | None = None
        self._judges: list[Judge] = []
        self._inputs: InputSettings | None = None
        self._worker: Worker | None = None
        self._enabled = True
        self._finalized = False
        self._failure = ""
        self._default_threads = torch.get_num_threads()
        self._vision_messages = vision_messages()
        # That they are missing.
        self._told = False
        # Whether a model was freed since the last look.
        self._freed = False
        self._live = LiveParameters(self)
        self._diagnostics = self.create_publisher(DiagnosticArray, diagnostics.TOPIC, diagnostics.QOS)
        # Steady: health is reported also where simulated time stands still.
        self.create_timer(diagnostics.PERIOD_S, self._every_second, clock=Clock(clock_type=ClockType.STEADY_TIME))
        callbacks = {"~/reset": self._on_reset, "~/enable": self._on_enable}
        for name, (kind, _) in SERVICES.items():
            self.create_service(kind, name, callbacks[name])
        survive_invalid_transitions(self)

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and warm it up; fails, saying why, where a parameter or the checkpoint is unusable."""
        try:
            values = read_values(self)
            self._inputs = group(InputSettings, values)
            wanted = places(self, self._inputs)
            torch.set_num_threads(self._inputs.threads or self._default_threads)
            self.model = load(group(ModelSettings, values))
            for place in wanted:
                # One by one: where the second fails, the first is released.
                self.streams.append(Stream(self, place, self._vision_messages, self._complain))
            self._judges = [Judge(stream) for stream in self.streams]
            self.enable_cameras(values["enabled_cameras"])
        except Exception as error:
            # rclpy says nothing of what a transition raises.
            self._release()
            return self.fail(f"cannot configure: {reason(error)}")
        self._failure = ""
        self._live.model_failure = ""
        for stream in self.streams:
            stream.use(self.model)
        if self._vision_messages is None and not self._told:
            self._told = True
            self._warn(MISSING)
        engine = self.model.engine
        self.get_logger().info(
            f"model {self.model.path} on {engine.device}, {len(engine.info.labels)} classes, "
            f"window {self.model.settings.window} of {engine.length}, cameras: {len(self.streams)}"
        )
        return super().on_configure(state)

    @explained
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Listen to the cameras and start the worker."""
        assert self._inputs is not None and self.model is not None
        worker = Worker(
            self.get_clock(), lambda: read(self, FrameSettings), self._swap_model, self._complain, self.context.ok
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
        self._failure = ""
        return result

    @explained
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_work()
        return super().on_deactivate(state)

    @explained
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        self._failure = ""
        return super().on_cleanup(state)

    @explained
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_work()
        self._release()
        self._failure, self._finalized = "", True
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

    def fail(self, message: str) -> TransitionCallbackReturn:
        """A transition failed: say why, now and in diagnostics until it succeeds."""
        self._failure = message
        if self.context.ok():
            # Else it was stopped meanwhile, and anything may fail.
            self.get_logger().error(message)
        return TransitionCallbackReturn.FAILURE

    def _warn(self, message: str) -> None:
        if self.context.ok():
            self.get_logger().warning(message)

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
            settings = model.settings
            self.get_logger().info(
                f"now model {model.path}, {len(model.engine.info.labels)} classes, window {settings.window}, "
                f"short_side {settings.short_side}, {settings.precision} precision on {model.engine.device}"
            )

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
            stream.enable(self._enabled and among(stream))

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        for stream in self.streams:
            stream.reset_asked.set()
        response.success = True
        response.message = "the next frame starts a new window"
        return response

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._enabled = request.data
        self.enable_cameras(value_of(self, "enabled_cameras"))
        response.success = True
        response.message = "segmenting" if self._enabled else "images are ignored until enabled again"
        return response

    def _state(self) -> str:
        """Of the lifecycle, for diagnostics."""
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
            diagnostics.node_status(prefix, self._state(), self._failure),
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
    """Run the node until Ctrl-C. Exit code 0 then; 1 after one line where ROS cannot start it as it is told to."""
    parser = argparse.ArgumentParser(
        prog="segmentation_node",
        description=__doc__,
        epilog="Parameters and remappings are given as to every ROS 2 node: --ros-args -p short_side:=360 "
        "-r image:=/camera/image_raw; docs/topics.md lists them. `ros2 launch stmem_ros segment.launch.py` sets them.",
    )
    try:
        parser.parse_known_args(remove_ros_args(args))
        rclpy.init(args=args)
    except RuntimeError as error:
        return _refuse(error)
    executor = SingleThreadedExecutor()
    node = None
    code = 0
    try:
        node = SegmentationNode()
        executor.add_node(node)
        if node.get_parameter("autostart").value and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            node.trigger_activate()
        spin(executor, node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except ParameterException as error:
        code = _refuse(error)
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


def _refuse(error: Exception) -> int:
    print(f"segmentation: {one_line(error)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""The lifecycle node: a camera's images in, label images out."""

from __future__ import annotations

import collections
import signal
import sys
import threading
import time
from typing import Any

import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger

from stmem_ros.checkpoint import DEFAULT_CHECKPOINT, CheckpointError
from stmem_ros.decode import ImageError, decode_compressed, decode_image
from stmem_ros.node.camera import Camera
from stmem_ros.node.mailbox import Mailbox
from stmem_ros.node.messages import stamp_from_ns, stamp_to_ns
from stmem_ros.node.outputs import Outputs
from stmem_ros.node.parameters import PARAMETERS, NodeConfig, check_choice, declare_parameters, read_config
from stmem_ros.node.statistics import Complaints, FrameTimes, Persistent, Statistics
from stmem_ros.streaming import DeviceError, StreamingSegmenter

LOST_SHARE_TO_REPORT = 0.2
LOOKS_TO_REPORT_LOSS = 10


class SegmentationNode(LifecycleNode):
    """Wiring: parameters, mailbox, one worker thread, outputs, services, diagnostics.

    The executor's thread stores the newest message; the worker decodes, segments and publishes.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("segmentation", **options)
        declare_parameters(self)
        self.add_on_set_parameters_callback(self._check_parameters)
        self._complain = Complaints(self._warn)
        self._statistics = Statistics()
        self._enabled = True
        self._reset_asked = threading.Event()
        self._config: NodeConfig | None = None
        self._engine: StreamingSegmenter | None = None
        self._outputs: Outputs | None = None
        self._camera: Camera | None = None
        self._failure = ""
        self._lossy = Persistent(LOOKS_TO_REPORT_LOSS)
        self._default_threads = torch.get_num_threads()
        self._mailbox: Mailbox[tuple[Any, float]] = Mailbox()
        # Stamps of the frames that came since the worker last took one, itself included.
        self._stamps: collections.deque[int] = collections.deque(maxlen=1000)
        self._worker: threading.Thread | None = None
        self._active_since = 0.0
        self._checkpoint = ""
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Steady: health is reported also where simulated time stands still.
        self.create_timer(1.0, self._every_second, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(SetBool, "~/enable", self._on_enable)
        self._survive_invalid_transitions()

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and warm it up; fails, saying why, where a parameter or the checkpoint is unusable."""
        try:
            self._config = read_config(self)
            self._checkpoint = self._config.checkpoint or str(DEFAULT_CHECKPOINT)
            torch.set_num_threads(self._config.threads or self._default_threads)
            self._engine = StreamingSegmenter.from_checkpoint(self._checkpoint, self._config.stream)
            self._engine.warm_up()
        except (CheckpointError, DeviceError, ValueError) as error:
            self._engine = None
            return self._fail(f"cannot configure: {error}")
        except Exception as error:
            # rclpy says nothing of what a transition raises.
            self._engine = None
            return self._fail(f"cannot configure: {type(error).__name__}: {' '.join(str(error).split())}")
        self._failure = ""
        self._statistics = Statistics()
        self._outputs = Outputs(self, self._engine.info.labels)
        self.get_logger().info(
            f"model {self._checkpoint} on {self._engine.device}, {len(self._engine.info.labels)} classes, "
            f"window {self._config.stream.window} of {self._engine.length}"
        )
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        assert self._config is not None
        self._active_since = time.monotonic()
        self._mailbox = Mailbox()
        try:
            self._camera = Camera(self, self._config.image_transport, self._config.reliability, self._on_image)
        except Exception as error:
            return self._fail(f"cannot subscribe: {type(error).__name__}: {' '.join(str(error).split())}")
        self._worker = threading.Thread(target=self._work, args=(self._mailbox,), name="segmentation worker")
        self._worker.start()
        self._failure = ""
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_work()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_work()
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_work()
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        self._stop_work()
        super().destroy_node()

    def _stop_work(self) -> None:
        if self._camera is not None:
            self._camera.destroy()
            self._camera = None
        self._mailbox.close()
        if self._worker is not None:
            self._worker.join()
            self._worker = None
        self._stamps.clear()
        if self._engine is not None:
            self._engine.reset()

    def _release(self) -> None:
        if self._outputs is not None:
            self._outputs.destroy()
            self._outputs = None
        self._engine = None

    def _fail(self, message: str) -> TransitionCallbackReturn:
        """A transition failed: say why, now and in diagnostics until it succeeds."""
        self._failure = message
        self.get_logger().error(message)
        return TransitionCallbackReturn.FAILURE

    def _survive_invalid_transitions(self) -> None:
        """rclpy up to Jazzy lets a lifecycle request that does not fit the state end the node (rclpy#1209)."""
        service = getattr(self, "_service_change_state", None)
        if service is None:
            return
        original = service.callback

        def callback(request: Any, response: Any) -> Any:
            try:
                return original(request, response)
            except RuntimeError as error:
                self.get_logger().warning(f"lifecycle request refused: {' '.join(str(error).split())}")
                response.success = False
                return response

        service.callback = callback

    def _warn(self, message: str) -> None:
        if self.context.ok():
            self.get_logger().warning(message)

    def _check_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        live = {parameter.name for parameter in PARAMETERS if parameter.live}
        ours = {parameter.name for parameter in PARAMETERS}
        for parameter in parameters:
            try:
                check_choice(parameter.name, parameter.value)
            except ValueError as error:
                return SetParametersResult(successful=False, reason=str(error))
            if self._engine is not None and parameter.name in ours - live:
                reason = f"{parameter.name} is read when the node is configured: clean it up first, then set it"
                return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)

    # Executor thread

    def _on_image(self, message: Any) -> None:
        stamp_ns = stamp_to_ns(message.header.stamp)
        self._statistics.arrived(stamp_ns * 1e-9)
        if not self._enabled:
            self._statistics.arrived_disabled()
            return
        self._stamps.append(stamp_ns)
        if self._mailbox.put((message, time.perf_counter())):
            self._statistics.dropped_for_newer()

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._reset_asked.set()
        response.success = True
        response.message = "the next frame starts a new window"
        return response

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if request.data and not self._enabled:
            self._reset_asked.set()
        self._enabled = request.data
        if not self._enabled:
            self._mailbox.clear()
            self._stamps.clear()
        response.success = True
        response.message = "segmenting" if self._enabled else "images are ignored until enabled again"
        return response

    def _every_second(self) -> None:
        level, kind, message = self._health()
        # An ERROR is a failed transition, which was logged when it came.
        if level == DiagnosticStatus.WARN:
            self._complain(kind, message)
        status = DiagnosticStatus(level=level, name=f"{self.get_fully_qualified_name()}: stream", message=message)
        status.hardware_id = str(self._engine.device) if self._engine else ""
        values = self._statistics.summary() | {"checkpoint": self._checkpoint}
        if self._camera is not None:
            reliability = self._camera.reliability
            values |= {"topic": self._camera.topic, "reliability": reliability.name.lower() if reliability else "none"}
        status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)

    def _health(self) -> tuple[bytes, str, str]:
        """Level, a short word for the rate limit, and the message."""
        if self._failure:
            return DiagnosticStatus.ERROR, "failure", self._failure
        if self._camera is None:
            return DiagnosticStatus.OK, "inactive", "not active"
        if not self._enabled:
            return DiagnosticStatus.OK, "disabled", "disabled"
        patience = self.get_parameter("no_image_warning").value
        waited = time.monotonic() - self._active_since
        since_image = self._statistics.seconds_since_image()
        quiet = waited if since_image is None else min(since_image, waited)
        if patience and quiet > patience:
            publishers = ", ".join(self._camera.publishers()) or "none (is the camera running, is the topic right?)"
            message = f"no image for {quiet:.0f} s on {self._camera.topic}: publishers are {publishers}"
            return DiagnosticStatus.WARN, "no image", message
        lost = self._statistics.lost_share()
        if self._lossy(lost > LOST_SHARE_TO_REPORT):
            message = (
                f"frames are missing: by their stamps {lost:.0%} of the images on {self._camera.topic} never arrived; "
                "for large images over Fast DDS see large_data in the README"
            )
            return DiagnosticStatus.WARN, "lost", message
        return DiagnosticStatus.OK, "well", "segmenting"

    # Worker thread

    def _work(self, mailbox: Mailbox[tuple[Any, float]]) -> None:
        while (item := mailbox.take()) is not None:
            message, arrival = item
            try:
                self._segment(message, arrival)
            except ImageError as error:
                self._reject(error.kind, str(error))
            except Exception as error:
                if not self.context.ok():
                    return
                # Whatever went wrong with this frame must not end the stream.
                self._reject("failure", f"{type(error).__name__}: {' '.join(str(error).split())}")
                if self._engine is not None:
                    self._engine.reset()

    def _reject(self, kind: str, reason: str) -> None:
        self._statistics.reject(kind)
        self._complain(kind, f"a frame on {self._topic()} cannot be segmented: {reason}")

    def _topic(self) -> str:
        camera = self._camera
        return camera.topic if camera is not None else "the image topic"

    def _skipped_before(self, stamp_ns: int) -> list[int]:
        """The stamps of the frames that came before this one and were dropped for it."""
        skipped: list[int] = []
        while self._stamps:
            stamp = self._stamps.popleft()
            if stamp == stamp_ns:
                break
            skipped.append(stamp)
        return skipped

    def _segment(self, message: Any, arrival: float) -> None:
        engine, outputs, config = self._engine, self._outputs, self._config
        assert engine is not None and outputs is not None and config is not None
        if self._reset_asked.is_set():
            self._reset_asked.clear()
            engine.reset()
            self._statistics.reset("asked for")
        if message.header.stamp.nanosec >= 1_000_000_000:
            raise ImageError("stamp", f"the stamp has {message.header.stamp.nanosec} nanoseconds; a second has 10^9")
        stamp_ns = stamp_to_ns(message.header.stamp)
        taken = time.perf_counter()
        image = decode_image(message) if config.image_transport == "raw" else decode_compressed(message)
        decoded = time.perf_counter()
        segmentation = engine.step(
            image,
            stamp_ns,
            message.header.frame_id,
            confidence=outputs.wanted("confidence"),
            skipped=self._skipped_before(stamp_ns),
        )
        segmented = time.perf_counter()
        if engine.last_reset is not None:
            self._statistics.reset(engine.last_reset.value)
            self._complain(engine.last_reset.name, f"new window on {self._topic()}: {engine.last_reset.value}")
        if segmentation is None:
            return
        header = Header(stamp=stamp_from_ns(segmentation.stamp_ns), frame_id=segmentation.frame_id)
        outputs.publish_labels(segmentation, header)
        published = time.perf_counter()
        latency = (self.get_clock().now().nanoseconds - segmentation.stamp_ns) * 1e-9
        self._statistics.labels_published(
            FrameTimes(taken - arrival, decoded - taken, segmented - decoded, published - segmented, latency)
        )
        outputs.publish_pictures(segmentation, header, self.get_parameter("overlay_alpha").value)


def main(args: list[str] | None = None) -> int:
    """Run the node until Ctrl-C. Exit code 0 then; 1 where a parameter's type or range is wrong."""
    rclpy.init(args=args)
    executor = SingleThreadedExecutor()
    node = None
    code = 0
    try:
        node = SegmentationNode()
        executor.add_node(node)
        if node.get_parameter("autostart").value and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            node.trigger_activate()
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except ParameterException as error:
        print(f"segmentation: {' '.join(str(error).split())}", file=sys.stderr)
        code = 1
    except Exception:
        # Ctrl-C while the node starts takes the graph away from under it.
        if rclpy.ok():
            raise
    finally:
        # A second Ctrl-C must not interrupt the end.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if node is not None:
            node.destroy_node()
        executor.shutdown()
        rclpy.try_shutdown()
    return code


if __name__ == "__main__":
    sys.exit(main())

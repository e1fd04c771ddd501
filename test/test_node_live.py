"""What changes while the node runs, another model among it, and what a hundred lifecycle transitions leave behind."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from graph import PERIOD_NS, Graph, pixels, wait_for  # noqa: E402
from gray import gray_frame, own_graphs, save_fusing, save_gray  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from std_srvs.srv import SetBool  # noqa: E402

from stmem_ros.checkpoint import DEFAULT_CHECKPOINT, CheckpointError  # noqa: E402
from stmem_ros.node import model as model_module  # noqa: E402
from stmem_ros.node import segmentation_node  # noqa: E402
from stmem_ros.node.messages import stamp_from_ns, stamp_to_ns  # noqa: E402
from stmem_ros.node.model import Loader, Model, give_back_memory, load, resident_mib, sha256_of  # noqa: E402
from stmem_ros.node.parameters import PARAMETERS  # noqa: E402
from stmem_ros.node.settings import ModelSettings  # noqa: E402
from stmem_ros.streaming import StreamingSegmenter  # noqa: E402


def test_a_file_that_is_replaced_while_it_is_loaded_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "replaced.safetensors"
    path.write_bytes((folder / "gray.safetensors").read_bytes())
    from_checkpoint = StreamingSegmenter.from_checkpoint

    def replaced(*arguments: Any) -> StreamingSegmenter:
        engine = from_checkpoint(*arguments)
        path.write_bytes((folder / "shifted.safetensors").read_bytes())
        return engine

    monkeypatch.setattr(StreamingSegmenter, "from_checkpoint", replaced)
    with pytest.raises(CheckpointError, match=r"replaced.safetensors changed while it was loaded"):
        load(ModelSettings(str(path), "cpu", "float32", "causal", short_side=64))


def test_a_model_of_the_package_is_known_by_its_name() -> None:
    settings = ModelSettings("camvid_lite2", "cpu", "float32", "causal", short_side=64)
    assert load(settings).path == DEFAULT_CHECKPOINT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Holds gray.safetensors, and shifted.safetensors whose labels are one more."""
    folder = tmp_path_factory.mktemp("models")
    with own_graphs(37):
        save_gray(folder / "gray.safetensors")
        save_gray(folder / "shifted.safetensors", shift=1)
        save_fusing(folder / "fusing.safetensors")
        yield folder


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Graph]:
    graph = Graph({"checkpoint": str(folder / "gray.safetensors")})
    yield graph.start()
    graph.close()


@pytest.fixture
def graph(running: Graph, folder: Path) -> Iterator[Graph]:
    """The shared graph, on the grey model whatever a test left it on."""
    yield running
    swap(running, checkpoint=str(folder / "gray.safetensors"), window="causal")
    assert running.set(max_gap=1.0).successful


def swap(graph: Graph, **parameters: str) -> None:
    """Ask for another model, and wait until it is in use."""
    result = graph.set(**parameters)
    assert result.successful, result.reason

    def taken() -> bool:
        settings = graph.node.model.settings
        wanted = {name: getattr(settings, name) for name in parameters}
        return wanted == parameters and graph.node._live.loading is None

    wait_for(taken, "the other model")


def label(graph: Graph, number: int) -> int:
    (found,) = np.unique(pixels(graph.labels_of(gray_frame(number)))).tolist()
    return found


def test_another_model_takes_over_between_frames(graph: Graph, folder: Path) -> None:
    assert label(graph, 7) == 7
    path = folder / "shifted.safetensors"
    swap(graph, checkpoint=str(path))
    assert label(graph, 7) == 8
    status = graph.wait_diagnostics(model=path.name, sha256=sha256_of(path))
    assert status.name.endswith(": model") and status.level == DiagnosticStatus.OK
    assert {"memory MiB", "device", "precision", "classes"} <= {pair.key for pair in status.values}


def test_a_camera_of_12_bits_is_dark_until_used_bits_says_so(graph: Graph) -> None:
    deep = (gray_frame(7)[..., 0].astype(np.uint16) << 4) + 9

    def labelled() -> int:
        message = Image(height=deep.shape[0], width=deep.shape[1], encoding="mono16", step=2 * deep.shape[1])
        message.header.stamp, message.header.frame_id = stamp_from_ns(graph.next_stamp), "camera"
        graph.next_stamp += PERIOD_NS
        message.data.frombytes(deep.tobytes())
        before = len(graph.received["labels"])
        graph.send(message)
        graph.wait_labels(before + 1)
        (found,) = np.unique(pixels(graph.received["labels"][before])).tolist()
        return found

    assert labelled() < 7
    graph.wait_message(f"{graph.namespace}/image: 16-bit images with no pixel above", "set parameter used_bits to")
    try:
        assert graph.set(used_bits=12).successful
        assert labelled() == 7
    finally:
        assert graph.set(used_bits=0).successful
    assert not graph.set(used_bits=17).successful


def test_no_frame_is_lost_or_mislabelled_while_models_change(graph: Graph, folder: Path) -> None:
    sent: dict[int, int] = {}
    stop = threading.Event()

    def drive() -> None:
        number = 0
        while not stop.wait(0.02):
            number += 1
            stamp = graph.next_stamp
            sent[stamp] = number % 50 + 1
            graph.send_image(gray_frame(sent[stamp]), stamp_ns=stamp)

    before = len(graph.received["labels"])
    thread = threading.Thread(target=drive)
    thread.start()
    try:
        graph.wait_labels(before + 3)
        for name in ("shifted", "gray", "shifted", "gray"):
            swap(graph, checkpoint=str(folder / f"{name}.safetensors"))
            graph.wait_labels(len(graph.received["labels"]) + 3)
    finally:
        stop.set()
        thread.join()
    shifts = []
    for message in graph.received["labels"][before:]:
        (found,) = np.unique(pixels(message)).tolist()
        shifts.append(found - sent[stamp_to_ns(message.header.stamp)])
    assert set(shifts) == {0, 1}
    assert sum(a != b for a, b in itertools.pairwise(shifts)) == 4
    assert not graph.stream.statistics.rejected


def test_another_model_is_warm_for_the_cameras_images_before_it_takes_over(
    graph: Graph, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph.labels_of(gray_frame(1, size=(80, 128)))
    warmed: list[tuple[int, int] | None] = []
    warm_up = StreamingSegmenter.warm_up
    monkeypatch.setattr(
        StreamingSegmenter, "warm_up", lambda engine, size=None: warmed.append(size) or warm_up(engine, size)
    )
    swap(graph, checkpoint=str(folder / "shifted.safetensors"))
    assert warmed == [(80, 128)]


def test_a_model_that_runs_is_not_loaded_again_unless_its_file_changed(
    graph: Graph, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[ModelSettings] = []
    load_model = model_module.load
    monkeypatch.setattr(model_module, "load", lambda *parts: loads.append(parts[0]) or load_model(*parts))
    path = tmp_path / "model.safetensors"
    path.write_bytes((folder / "gray.safetensors").read_bytes())
    swap(graph, checkpoint=str(path))
    running = graph.node.model
    assert len(loads) == 1
    for values in ({"checkpoint": str(path)}, {"window": "causal", "short_side": 0}, {"precision": "auto"}):
        assert graph.set(**values).successful and graph.node._live.loading is None
    assert graph.node.model is running and len(loads) == 1
    assert label(graph, 5) == 5 and "model" not in graph.stream.statistics.resets
    # Another file under the same name is another model.
    path.write_bytes((folder / "shifted.safetensors").read_bytes())
    assert graph.set(checkpoint=str(path)).successful
    wait_for(lambda: graph.node.model is not running, "the other model")
    assert label(graph, 5) == 6 and len(loads) == 2


def test_to_want_the_running_model_again_forgets_the_one_that_is_being_loaded(
    graph: Graph, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, free, started = graph.node.model, threading.Event(), threading.Event()
    load_model = model_module.load

    def slow(*parts: Any) -> Model:
        started.set()
        assert free.wait(20)
        return load_model(*parts)

    monkeypatch.setattr(model_module, "load", slow)
    assert graph.set(checkpoint=str(folder / "shifted.safetensors")).successful
    assert started.wait(10)
    assert graph.set(checkpoint=str(folder / "gray.safetensors")).successful
    assert graph.node._live.loading is None
    free.set()
    wait_for(lambda: not graph.node.loading, "the loader")
    assert label(graph, 6) == 6 and graph.node.model is running


def truncated(source: Path, path: Path) -> Path:
    data = source.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    return path


def emptied(source: Path, path: Path) -> Path:
    """The header of a checkpoint, without one of its tensors: only loading shows it."""
    with safe_open(source, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())[1:]}
        save_file(tensors, path, metadata=file.metadata())
    return path


@pytest.mark.parametrize("kind", ["missing", "truncated", "pickle"])
def test_a_bad_file_is_refused_at_once_and_changes_nothing(
    graph: Graph, folder: Path, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / f"{kind}.safetensors"
    if kind == "truncated":
        truncated(folder / "shifted.safetensors", path)
    elif kind == "pickle":
        path.write_bytes(b"\x80\x04\x95" + bytes(300))
    result = graph.set(checkpoint=str(path))
    assert not result.successful and str(path) in result.reason and "\n" not in result.reason
    assert graph.node.get_parameter("checkpoint").value == str(folder / "gray.safetensors")
    assert label(graph, 9) == 9


def test_a_file_that_fails_while_it_loads_changes_nothing_and_says_why(
    graph: Graph, folder: Path, tmp_path: Path
) -> None:
    path = emptied(folder / "shifted.safetensors", tmp_path / "emptied.safetensors")
    assert graph.set(checkpoint=str(path)).successful
    graph.wait_message("was not taken", str(path), "lacks tensor")
    graph.wait_status(DiagnosticStatus.WARN, "lacks tensor", title="model")
    wait_for(lambda: graph.node.get_parameter("checkpoint").value == str(folder / "gray.safetensors"), "the old path")
    assert label(graph, 9) == 9
    swap(graph, checkpoint=str(folder / "shifted.safetensors"))
    graph.wait_status(DiagnosticStatus.OK, "loaded", title="model")


def test_the_window_mode_changes_while_the_node_runs(graph: Graph, folder: Path) -> None:
    swap(graph, checkpoint=str(folder / "fusing.safetensors"), window="centered")
    count = len(graph.received["labels"])
    first = graph.send_image(gray_frame(1))
    graph.wait_segmented(first)
    graph.wait_segmented(graph.send_image(gray_frame(2)))
    graph.wait_labels(count + 1)
    # One frame late.
    assert stamp_to_ns(graph.received["labels"][count].header.stamp) == first
    graph.wait_diagnostics(window="centered of 3")


def test_max_gap_changes_while_the_node_runs(graph: Graph) -> None:
    resets = graph.stream.statistics.resets
    before = sum(resets.values())
    label(graph, 1)
    label(graph, 2)
    assert sum(resets.values()) == before
    assert graph.set(max_gap=PERIOD_NS * 0.5e-9).successful
    label(graph, 3)
    assert sum(resets.values()) == before + 1


OTHER = {str: "another", int: 3, bool: False, list: ["another"]}
FIXED = {"image_transport": "raw", "reliability": "best_effort"}


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda parameter: parameter.name)
def test_ranges_are_of_the_types_that_every_ros_2_takes(parameter: Any) -> None:
    descriptor = parameter.descriptor()
    for kind, ranges in ((float, descriptor.floating_point_range), (int, descriptor.integer_range)):
        for values in ranges:
            assert type(values.from_value) is type(values.to_value) is kind


@pytest.mark.parametrize("name", [parameter.name for parameter in PARAMETERS if parameter.fixed])
def test_what_cannot_change_is_refused_with_the_reason(graph: Graph, name: str) -> None:
    (parameter,) = (parameter for parameter in PARAMETERS if parameter.name == name)
    result = graph.set(**{name: FIXED.get(name, OTHER[type(parameter.default)])})
    assert not result.successful
    what = "start the node with another value" if name == "autostart" else "clean the node up first"
    assert parameter.fixed in result.reason and what in result.reason
    assert graph.set(**{name: parameter.default}).successful


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"window": "sideways"}, "causal, centered"),
        ({"device": "toaster"}, "toaster"),
        ({"precision": "float16", "device": "cpu"}, "float16 needs a GPU"),
        ({"short_side": 5}, "at least 64"),
        # Nothing that a file system says may reach the executor.
        ({"checkpoint": "a" * 300}, "File name too long"),
        ({"checkpoint": "a" * 300 + "/model"}, "File name too long"),
        ({"output_scale": 2.0}, "range"),
    ],
)
def test_values_that_cannot_be_are_refused_and_the_model_stays(graph: Graph, values: dict, said: str) -> None:
    model = graph.node.model
    result = graph.set(**values)
    assert not result.successful and said in result.reason
    assert graph.node.model is model and graph.node._live.loading is None


def test_the_model_that_was_asked_for_last_is_the_one_that_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    started, free, loaded, failed = threading.Event(), threading.Event(), [], []

    def load(settings: ModelSettings, sizes: object) -> Model:
        started.set()
        assert free.wait(10)
        if settings.checkpoint == "bad":
            raise ValueError("no good")
        return Model(settings, Path(settings.checkpoint), "", None)

    monkeypatch.setattr(model_module, "load", load)
    loader = Loader(loaded.append, lambda settings, why: failed.append(why), list)
    for name in ("bad", "first", "second"):
        loader.ask(ModelSettings(name, "cpu", "auto", "causal", 0))
        assert started.wait(10)
    free.set()
    wait_for(lambda: loader.wanted is None, "the loader")
    assert [model.settings.checkpoint for model in loaded] == ["second"] and not failed
    loader.ask(ModelSettings("bad", "cpu", "auto", "causal", 0))
    wait_for(lambda: failed == ["no good"], "the failure")
    free.clear()
    loader.ask(ModelSettings("third", "cpu", "auto", "causal", 0))
    threading.Timer(0.05, free.set).start()
    loader.close()
    assert len(loaded) == 1 and not [thread for thread in threading.enumerate() if thread.name == "model loader"]


def test_nobody_waits_long_for_a_large_model_that_is_not_wanted_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    started, free, loaded = threading.Event(), threading.Event(), []

    def load(settings: ModelSettings, sizes: object) -> Model:
        started.set()
        assert free.wait(20)
        return Model(settings, Path(settings.checkpoint), "", None)

    monkeypatch.setattr(model_module, "load", load)
    monkeypatch.setattr(model_module, "PATIENCE_S", 0.01)
    loader = Loader(loaded.append, lambda *_: None, list)
    loader.ask(ModelSettings("large", "cpu", "auto", "causal", 0))
    assert started.wait(10)
    loader.close()
    assert loader.busy and loader.wanted is None
    loader.ask(ModelSettings("small", "cpu", "auto", "causal", 0))
    free.set()
    wait_for(lambda: not loader.busy, "the loader")
    assert [model.settings.checkpoint for model in loaded] == ["small"]


def test_a_model_that_was_loaded_while_the_node_is_inactive_is_used_from_then_on(graph: Graph, folder: Path) -> None:
    assert graph.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    swap(graph, checkpoint=str(folder / "shifted.safetensors"))
    assert graph.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    graph.wait_matched()
    assert label(graph, 20) == 21


def test_memory_of_a_model_that_was_replaced_is_given_back_once(
    graph: Graph, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []
    monkeypatch.setattr(segmentation_node, "give_back_memory", lambda: given.append(len(graph.diagnostics)))
    swap(graph, checkpoint=str(folder / "shifted.safetensors"))
    wait_for(lambda: given, "memory to be given back")
    looks = len(graph.diagnostics)
    wait_for(lambda: len(graph.diagnostics) >= looks + 2, "two more looks")
    assert len(given) == 1
    give_back_memory()


STATES = {
    "unconfigured": ["configure"],
    "inactive": ["activate", "cleanup", "reload"],
    "active": ["deactivate", "reload", "image"],
}
AFTER = {"configure": "inactive", "activate": "active", "deactivate": "inactive", "cleanup": "unconfigured"}


def held_mib() -> float:
    """Memory of this process without what is freed and kept for later."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return resident_mib()


def file_handles() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_hundred_transitions_in_any_order_leave_nothing_behind(folder: Path) -> None:
    path = str(folder / "gray.safetensors")
    graph = Graph({"checkpoint": path, "image_topics": ["front", "rear"]})
    choose = random.Random(5)
    state, transitions, window = "unconfigured", 0, "causal"
    sizes: list[tuple[int, int, float]] = []
    try:
        camera = graph.add_camera("front")
        while transitions < 100 or state != "unconfigured":
            step = choose.choice(STATES[state])
            if step == "reload":
                # Sometimes still loading when the next transition comes.
                window = {"causal": "centered", "centered": "causal"}[window]
                assert graph.set(window=window).successful
            elif step == "image":
                graph.send_image(gray_frame(3), topic="front")
            else:
                transitions += 1
                assert getattr(graph.node, f"trigger_{step}")() == TransitionCallbackReturn.SUCCESS
                state = AFTER[step]
            if state == "unconfigured" and step == "cleanup":
                wait_for(lambda: camera.get_subscription_count() == 0, "the subscription to be gone")
                sizes.append((threading.active_count(), file_handles(), held_mib()))
        wait_for(
            lambda: all(entity() is not None for entity in graph.node.default_callback_group.entities),
            "rclpy's notes of what was destroyed to be gone",
        )
        settled = sizes[len(sizes) // 3 :]
        assert len(settled) >= 3
        assert len({threads for threads, _, _ in settled}) == 1, sizes
        assert settled[-1][1] <= settled[0][1], sizes
        assert settled[-1][2] - settled[0][2] < 16, sizes
        # And it works as on its first day.
        graph.node.trigger_configure()
        graph.node.trigger_activate()
        graph.listen("front/labels")
        graph.wait_matched("front")
        graph.send_image(gray_frame(3), topic="front")
        graph.wait_labels(1, "front/labels")
    finally:
        graph.close()


def test_enabling_while_there_are_no_cameras_counts_from_configuration_on(folder: Path) -> None:
    graph = Graph(
        {"checkpoint": str(folder / "gray.safetensors"), "image_topics": ["a", "b"], "enabled_cameras": ["a"]}
    )
    try:
        for enabled in (True, False):
            assert graph.call("enable", SetBool, data=enabled).success
        assert graph.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert [stream.enabled for stream in graph.node.streams] == [False, False]
        assert graph.call("enable", SetBool, data=True).success
        assert [stream.enabled for stream in graph.node.streams] == [True, False]
        assert graph.node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
        assert graph.call("enable", SetBool, data=True).success
    finally:
        graph.close()


def test_a_transition_that_does_not_fit_is_refused_in_every_state(folder: Path) -> None:
    graph = Graph({"checkpoint": str(folder / "gray.safetensors")})
    try:
        for fitting in ("configure", "activate"):
            for transition in {"configure", "activate", "deactivate"} - {fitting}:
                # rclpy raises up to Jazzy, and returns an error from then on.
                with contextlib.suppress(RuntimeError):
                    assert getattr(graph.node, f"trigger_{transition}")() == TransitionCallbackReturn.ERROR
            assert getattr(graph.node, f"trigger_{fitting}")() == TransitionCallbackReturn.SUCCESS
        assert graph.node.trigger_shutdown() == TransitionCallbackReturn.SUCCESS
        assert not graph.node.streams and graph.node.model is None
    finally:
        graph.close()

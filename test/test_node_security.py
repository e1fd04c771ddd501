"""What the node opens, reads and trusts: a statement of docs/security.md each."""

from __future__ import annotations

import ast
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("rclpy", reason="needs ROS 2")

import rclpy
from graph import Graph, wait_for
from gray import gray_frame, own_graphs, save_gray
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from stmem_ros.bridge import bridge_failure
from stmem_ros.checkpoint import DEFAULT_CHECKPOINT, FORMAT, CheckpointError, load_checkpoint
from stmem_ros.node.label_info import vision_messages

ROOT = Path(__file__).resolve().parents[1]
POLICY = ROOT / "config" / "sros2_policy.xml"
PAGE = ROOT / "docs" / "security.md"
SECONDS_TO_START = 90.0
MIB = 2**20

# Checkpoints


class Malicious:
    """Unpickling it makes the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


PICKLES = {
    "pickle": lambda object_, path: path.write_bytes(pickle.dumps(object_)),
    "torch.save": torch.save,
    "old torch.save": lambda object_, path: torch.save(object_, path, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_under_a_checkpoints_name_is_refused_and_not_run(tmp_path: Path, kind: str) -> None:
    path, proof = tmp_path / "model.safetensors", tmp_path / "it was run"
    PICKLES[kind](Malicious(proof), path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not proof.exists()


def safetensors(header: object, body: bytes = b"", claimed: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text + body


def tensor(*shape: int, start: int = 0, end: int = 4) -> dict[str, Any]:
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}


def of_config(**changes: Any) -> bytes:
    """The package's checkpoint with another configuration in its header, and hardly a tensor."""
    data = DEFAULT_CHECKPOINT.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    document = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][FORMAT])
    for name, change in changes.items():
        target = document["config"]
        target[name] = target[name] | change if isinstance(change, dict) else change
    return safetensors({"__metadata__": {FORMAT: json.dumps(document)}, "a": tensor(1)}, bytes(4))


ABSURD = {
    "a header of 2^63 bytes": lambda: safetensors({}, claimed=2**63),
    "a header of 90 MB in a small file": lambda: safetensors({}, claimed=90_000_000),
    "a tensor of 2^62 bytes": lambda: safetensors({"a": tensor(2**30, 2**30, end=2**62)}, bytes(64)),
    "a tensor whose shape overflows": lambda: safetensors({"a": tensor(2**40, 2**40, 2**40)}, bytes(4)),
    "a tensor that is not all there": lambda: safetensors({"a": tensor(2**28, end=2**30)}, bytes(64)),
    "tensors that overlap": lambda: safetensors({"a": tensor(1), "b": tensor(1)}, bytes(4)),
    "no JSON": lambda: safetensors(b"\xff" * 100),
    "JSON without an end": lambda: safetensors(b'{"a":' * 20_000),
    "a network as large as a configuration allows": lambda: of_config(
        stf={"positional_grid": [65536, 65536], "depth": 64, "feedforward": 65536}, mar={"features_per_class": 65536}
    ),
}


def peak() -> int:
    """The most memory that this process ever had, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_sizes_are_refused_before_memory_is_taken(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(ABSURD[name]())
    Path("/proc/self/clear_refs").write_text("5")
    before, started = peak(), time.thread_time()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert peak() - before < 64 * MIB and time.thread_time() - started < 5


# `bag` is left out: it pickles between its own processes.
FORBIDDEN = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "socket", "http", "urllib"}
FORBIDDEN_CALLS = {"eval", "exec", "torch.load", "os.system", "os.popen", "np.load", "numpy.load"}
# YAML of parameter files is read by `yaml.safe_load` alone, which makes no objects.
FORBIDDEN_CALLS |= {f"yaml.{name}" for name in ("load", "load_all", "full_load", "unsafe_load", "unsafe_load_all")}


def test_nothing_on_a_robot_unpickles_evaluates_or_opens_sockets() -> None:
    found = []
    for path in sorted((ROOT / "stmem_ros").rglob("*.py")):
        if path.is_relative_to(ROOT / "stmem_ros" / "bag"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names} & FORBIDDEN
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").partition(".")[0]} & FORBIDDEN
            elif isinstance(node, ast.Call):
                names = {ast.unparse(node.func)} & FORBIDDEN_CALLS
            else:
                continue
            found += [f"{path.relative_to(ROOT)}: {name}" for name in names]
    assert found == []


# Paths

_events: list[str] = []
_watching = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event in ("open", "os.listdir", "os.scandir", "subprocess.Popen", "os.system", "import"):
        _events.append(f"{event} {arguments[0]!s}")


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    with own_graphs(83):
        graph = Graph({"checkpoint": str(save_gray(tmp_path / "gray.safetensors"))})
        yield graph.start()
        graph.close()


def test_no_field_of_a_message_is_a_path(graph: Graph, tmp_path: Path) -> None:
    global _watching
    statistics = graph.stream.statistics
    bait = tmp_path / "bait"
    bait.write_text("nobody reads this")
    texts = (str(bait), f"file://{bait}", f"../../../../../../../..{bait}", f"$(cat {bait})")
    # The one process that the first unknown encoding starts, whatever it is called: cv_bridge is tried in it.
    bridge_failure()
    # It stays for good, as audit hooks do, and is silent but here.
    sys.addaudithook(_watch)
    _watching = True
    try:
        for count, text in enumerate(texts, 1):
            header = Header(frame_id=text)
            graph.send(Image(header=header, height=32, width=32, encoding=text, step=96, data=bytes(32 * 96)))
            wait_for(lambda count=count: statistics.rejected.total() == count, "the frame to be rejected")
            graph.labels_of(gray_frame(3), frame_id=text)
        seen = len(_events)
        bait.read_text()
    finally:
        _watching = False
    assert [event for event in _events[:seen] if "bait" in event or event.startswith(("sub", "os.system"))] == []
    assert [event for event in _events[seen:] if "bait" in event], "an open file would not have been seen"


# The process in its graph


class Running:
    """The node as a process, a camera with its calibration, and a subscriber of the scaled calibration."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._context = rclpy.Context()
        rclpy.init(context=self._context, args=[])
        self.node = rclpy.create_node("integrator", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._image = self.node.create_publisher(Image, "/camera/image_raw", 5)
        self._info = self.node.create_publisher(CameraInfo, "/camera/camera_info", 5)
        self.node.create_subscription(CameraInfo, "/segmentation/camera_info", lambda _: None, 5)
        settings = {"checkpoint": DEFAULT_CHECKPOINT, "short_side": 64, "use_sim_time": "true"}
        words = [word for name, value in settings.items() for word in ("-p", f"{name}:={value}")]
        names = ["-r", "__ns:=/segmentation", "-r", "image:=/camera/image_raw"]
        command = [sys.executable, "-m", "stmem_ros.node.segmentation_node", "--ros-args", *names, *words]
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT)

    def of_node(self, what: str) -> set[str]:
        """Names of the node's `publisher`, `subscriber`, `service` or `client`, as the graph has them."""
        find = getattr(self.node, f"get_{what}_names_and_types_by_node")
        try:
            return {name for name, _ in find("segmentation", "/segmentation")}
        except rclpy.node.NodeNameNonExistentError:
            return set()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS_TO_START
        while not condition():
            assert time.monotonic() < deadline and self.process.poll() is None, self._log.read_text()
            self._executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with own_graphs(89), pytest.MonkeyPatch.context() as patch:
        # As the README's defaults are.
        for name in ("FASTDDS_BUILTIN_TRANSPORTS", "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
            patch.delenv(name, raising=False)
        made = Running(tmp_path_factory.mktemp("security") / "node.log")
        wanted = {"/camera/image_raw", "/camera/camera_info"}
        try:
            made.wait_for(
                lambda: wanted <= made.of_node("subscriber") and "/segmentation/labels" in made.of_node("publisher")
            )
            yield made
        finally:
            made.close()


def allowed(kind: str, rule: str) -> set[str]:
    """The full names that the policy allows: `topics` to `publish` or `subscribe`, `services` to `reply`."""
    found = set()
    for profile in ElementTree.parse(POLICY).iter("profile"):
        namespace, node = profile.get("ns", "").rstrip("/"), profile.get("node")
        for group in profile.findall(kind):
            if group.get(rule) == "ALLOW":
                for name in (str(entry.text) for entry in group):
                    inside = f"{namespace}/{node}{name[1:]}" if name.startswith("~") else f"{namespace}/{name}"
                    found.add(name if name.startswith("/") else inside)
    return found


def test_the_policy_allows_what_a_running_node_has_and_nothing_else(running: Running) -> None:
    published, subscribed = allowed("topics", "publish"), allowed("topics", "subscribe")
    if vision_messages() is None:
        published.discard("/segmentation/label_info")
    running.wait_for(lambda: running.of_node("publisher") >= published)
    assert running.of_node("publisher") == published
    # Compressed images are taken in the place of raw ones.
    assert running.of_node("subscriber") == subscribed - {"/camera/image_raw/compressed"}
    assert running.of_node("client") == set()
    services, found = allowed("services", "reply"), running.of_node("service")
    # Since Iron.
    assert found == services or found == services - {"/segmentation/segmentation/get_type_description"}


def test_the_policy_is_one_profile_that_allows_and_asks_for_nothing_more() -> None:
    root = ElementTree.parse(POLICY).getroot()
    assert root.tag == "policy" and root.get("version") == "0.2.0"
    assert [enclave.get("path") for enclave in root.iter("enclave")] == ["/segmentation/segmentation"]
    rules = [(group.tag, dict(group.attrib)) for profile in root.iter("profile") for group in profile]
    assert rules == [
        ("topics", {"subscribe": "ALLOW"}),
        ("topics", {"publish": "ALLOW"}),
        ("services", {"reply": "ALLOW"}),
    ]


def test_the_page_has_the_policy_as_dds_topics() -> None:
    services = allowed("services", "reply")
    publish = {f"rt{name}" for name in allowed("topics", "publish")} | {f"rr{name}Reply" for name in services}
    subscribe = {f"rt{name}" for name in allowed("topics", "subscribe")} | {f"rq{name}Request" for name in services}
    block = "\n".join(["publish", *sorted(publish), "", "subscribe", *sorted(subscribe)])
    assert f"```\n{block}\n```" in PAGE.read_text()


def test_the_node_listens_on_nothing_beyond_dds(running: Running) -> None:
    pid = running.process.pid
    links = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")]
    sockets = {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
    assert sockets, "no socket at all: this looked at the wrong process"
    listening, udp = [], []
    for protocol in ("tcp", "tcp6", "udp", "udp6", "unix"):
        for line in Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]:
            words = line.split()
            inode = words[6] if protocol == "unix" else words[9]
            if inode not in sockets:
                continue
            if protocol.startswith("udp"):
                udp.append(int(words[1].rpartition(":")[2], 16))
            else:
                listening.append(f"{protocol} {words[1]}")
    assert listening == []
    assert udp, "DDS speaks UDP; this looked at the wrong process"

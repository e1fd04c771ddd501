"""An exported network gives PyTorch's labels through ONNX Runtime, and says why where it cannot."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pixel_base import PixelBase
from torch import Tensor
from torch.nn import functional as F

for _package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(_package, reason=f"exporting needs {_package}")

import onnxruntime  # noqa: E402

from stmem_ros.checkpoint import CheckpointError, CheckpointInfo, Normalization, save_checkpoint  # noqa: E402
from stmem_ros.decode import ImageError  # noqa: E402
from stmem_ros.labels import LabelSet  # noqa: E402
from stmem_ros.network import BASES, MARConfig, SegmenterConfig, STFConfig, build_segmenter  # noqa: E402
from stmem_ros.streaming import DeviceError, StreamConfig, StreamingSegmenter  # noqa: E402
from stmem_ros.streaming.exported import read_export  # noqa: E402
from training import export  # noqa: E402

CLASSES = 5
SIZE = (70, 94)
CAMERA = (140, 188)
PERIOD = 66_000_000
NETWORKS = {
    "STF on every feature, and MAR": (1, True),
    "STF on means of 2 x 2 features": (2, False),
    "MAR alone": (None, True),
}


class CoarseBase(PixelBase):
    """Means over 4 x 4 pixels: small grids, for quick graphs."""

    stride = 4

    def forward_with_deep(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = F.avg_pool2d(super().forward_with_deep(images)[0], self.stride, ceil_mode=True)
        return features, features


def write_checkpoint(path: Path, stride: int | None, mar: bool) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = SegmenterConfig(
            "coarse pixels",
            CLASSES,
            stf=STFConfig(block=(4, 4), positional_grid=(4, 4), feedforward=8, stride=stride) if stride else None,
            mar=MARConfig(CLASSES, 3) if mar else None,
        )
        model = build_segmenter(config)
        with torch.no_grad():
            model.classifier.linear.weight.normal_()
    labels = LabelSet([f"class {k}" for k in range(CLASSES)], [(k, 2 * k, 7) for k in range(CLASSES)])
    save_checkpoint(path, model, CheckpointInfo(config, labels, Normalization((127,) * 3, (128,) * 3), 70))
    return path


@pytest.fixture(scope="module")
def network_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[Path, Path]]]:
    """A checkpoint and its export, by a name of NETWORKS, each made once."""
    made: dict[str, tuple[Path, Path]] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BASES, "coarse pixels", CoarseBase)

        def make(name: str) -> tuple[Path, Path]:
            if name not in made:
                folder = tmp_path_factory.mktemp("network")
                checkpoint = write_checkpoint(folder / "own.safetensors", *NETWORKS[name])
                assert main(checkpoint, folder / "exported") == 0
                made[name] = checkpoint, folder / "exported"
            return made[name]

        yield make
    torch.set_num_threads(threads)


@pytest.fixture
def exported(network_of: Callable[[str], tuple[Path, Path]]) -> Path:
    """The quickest of the exports: not to be written to."""
    return network_of("MAR alone")[1]


@pytest.fixture
def own_copy(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "copy")


def main(checkpoint: Path, output: Path, *options: str) -> int:
    return export.main(["--checkpoint", str(checkpoint), "--size", "70x94", "-o", str(output), *options])


def frames(count: int, size: tuple[int, int] = CAMERA) -> list[np.ndarray]:
    """Patches of 20 x 20 pixels: finer noise would be grey to the network."""
    random = np.random.default_rng(count)
    patches = random.integers(0, 256, (count, size[0] // 20 + 1, size[1] // 20 + 1, 3), np.uint8)
    return list(patches.repeat(20, 1).repeat(20, 2)[:, : size[0], : size[1]])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("window", ["causal", "centered"])
@pytest.mark.parametrize("name", NETWORKS)
def test_an_exported_network_labels_a_stream_as_its_checkpoint_does(
    network_of: Callable[[str], tuple[Path, Path]], name: str, window: str
) -> None:
    engines = [StreamingSegmenter.from_checkpoint(path, StreamConfig(window=window)) for path in network_of(name)]
    images = frames(9)
    # Backwards, then on; a reset; the end.
    for index, stamp in enumerate([0, 1, 2, 3, 1, 2, 3, 4, 5]):
        if index == 7:
            for engine in engines:
                engine.reset()
        compare(*(engine.step(images[index], stamp * PERIOD, "camera") for engine in engines))
        assert engines[0].last_reset == engines[1].last_reset
    compare(*(engine.flush() for engine in engines))
    compare(*(engine.step(images[0], 6 * PERIOD) for engine in engines))


def compare(ours: Any, theirs: Any) -> None:
    assert (ours is None) == (theirs is None)
    if ours is not None:
        assert (ours.stamp_ns, ours.frame_id) == (theirs.stamp_ns, theirs.frame_id)
        assert len(np.unique(ours.labels)) > 1
        assert (ours.labels == theirs.labels).mean() >= 0.9999
        assert np.abs(ours.confidence.astype(int) - theirs.confidence).max() <= 1


def test_the_folder_says_what_it_is_and_runs_without_this_package(
    network_of: Callable[[str], tuple[Path, Path]],
) -> None:
    checkpoint, folder = network_of("STF on means of 2 x 2 features")
    assert set(contents(folder)) == {"model.json", "frame.onnx", "fusion_causal.onnx", "fusion_centered.onnx"}
    document = json.loads((folder / "model.json").read_text())
    assert document["checkpoint"]["names"] == [f"class {k}" for k in range(CLASSES)]
    assert document["checkpoint"]["config"]["stf"]["stride"] == 2
    assert document["checkpoint_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (document["size"], document["cameras"], document["opset"]) == ([70, 94], 1, 20)
    assert all(0 <= agreement["max_abs_diff"] <= 1e-4 for agreement in document["agreement"].values())
    frame = onnxruntime.InferenceSession(folder / "frame.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in frame.get_outputs()]
    assert names == ["features", "tokens", "query", "key", "value", "direction"]
    values = frame.run(None, {"images": np.zeros((1, 3, *SIZE), np.float32)})
    fusion = onnxruntime.InferenceSession(folder / "fusion_causal.onnx", providers=["CPUExecutionProvider"])
    state = {f"{name}_{place}": value for place in range(3) for name, value in zip(names, values, strict=True)}
    (logits,) = fusion.run(["logits"], state)
    assert logits.shape == (1, CLASSES, 18, 24)


def test_no_graph_tells_of_the_machine_it_was_made_on(exported: Path) -> None:
    assert not any(str(Path(export.__file__).parent).encode() in data for data in contents(exported).values())


def test_an_export_is_replaced_whole_and_the_terminal_is_left_in_peace(
    network_of: Callable[[str], tuple[Path, Path]], own_copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint, one = network_of("MAR alone")
    capfd.readouterr()
    assert main(checkpoint, own_copy, "--cameras", "2") == 0
    printed = capfd.readouterr()
    assert printed.err == "" and "100.0000% of labels equal" in printed.out
    assert read_export(own_copy).cameras == 2 and read_export(one).cameras == 1
    assert [path.name for path in own_copy.parent.iterdir()] == [own_copy.name]
    with pytest.raises(CheckpointError, match=r"exported for 2 cameras at once.*--cameras 1"):
        StreamingSegmenter.from_checkpoint(own_copy)


@pytest.mark.parametrize("what", ["other labels", "NaN", "an interruption"])
def test_an_export_that_fails_leaves_nothing_and_keeps_an_older_one(
    network_of: Callable[[str], tuple[Path, Path]],
    exported: Path,
    own_copy: Path,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def graphs(network: Any, info: Any, size: Any, cameras: int, folder: Path, opset: int) -> None:
        for path in exported.glob("*.onnx"):
            shutil.copy(path, folder)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "export_graphs", graphs)
    if what == "an interruption":
        monkeypatch.setattr(export, "compare", interrupted)
    else:
        wrong = {"other labels": (0.0, 1.0, 0.9998), "NaN": (float("nan"), 1.0, 1.0)}[what]
        monkeypatch.setattr(export, "compare", lambda *_: export.Agreement(*wrong))
    before = contents(own_copy)
    for output in (own_copy, own_copy.parent / "new"):
        status = main(network_of("MAR alone")[0], output)
        error = capsys.readouterr().err
        assert status == (130 if what == "an interruption" else 1)
        assert "nothing was written" in error and error.count("\n") == 1
    assert [path.name for path in own_copy.parent.iterdir()] == [own_copy.name]
    assert contents(own_copy) == before


def test_a_network_that_is_not_the_exported_one_is_found_out(
    network_of: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    other = write_checkpoint(tmp_path / "other.safetensors", None, False)
    network = export.StreamingNetwork(export.load_checkpoint(other)[0])
    assert not export.compare(network, network_of("MAR alone")[1], "causal").good


def document(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "model.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def exchange(folder: Path) -> None:
    """The files' names exchanged, and their digests with them."""
    digests = json.loads((folder / "model.json").read_text())["sha256"]
    shutil.move(folder / "frame.onnx", folder / "frame")
    shutil.move(folder / "fusion.onnx", folder / "frame.onnx")
    shutil.move(folder / "frame", folder / "fusion.onnx")
    document(sha256={"frame.onnx": digests["fusion.onnx"], "fusion.onnx": digests["frame.onnx"]})(folder)


def junk(folder: Path) -> None:
    (folder / "frame.onnx").write_bytes(b"no graph")
    document(sha256={"frame.onnx": hashlib.sha256(b"no graph").hexdigest()})(folder)


DAMAGE = {
    "a graph cut short": (lambda f: (f / "fusion.onnx").write_bytes(b"\x08"), "fusion.onnx is damaged, or not the"),
    "a graph missing": (lambda f: (f / "frame.onnx").unlink(), "frame.onnx cannot be read: No such file"),
    "no graph": (junk, "frame.onnx cannot be run by ONNX Runtime"),
    "graphs exchanged": (exchange, "has other inputs or outputs"),
    "no document": (lambda f: (f / "model.json").unlink(), "a folder without model.json"),
    "document cut short": (lambda f: (f / "model.json").write_text('{"stmem'), "model.json is damaged"),
    "another's document": (lambda f: (f / "model.json").write_text('{"layers": []}'), "not of an exported network"),
    "a list": (lambda f: (f / "model.json").write_text("[]"), "not of an exported network"),
    "a later format": (document(stmem_ros_onnx=2), "has format 2; this stmem_ros reads 1"),
    "no size": (document(size=None), "model.json cannot be used"),
    "a size too large": (document(size=[64, 10**9]), "model.json cannot be used: 1000000000"),
    "no classes": (document(checkpoint={"version": 2}), "has a header without 'config'"),
    "no checkpoint": (document(checkpoint=None), "model.json has a header that cannot be used"),
    "digests of nothing": (document(sha256=[]), "model.json cannot be used"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_or_foreign_folder_is_one_line(own_copy: Path, name: str) -> None:
    damage, said = DAMAGE[name]
    damage(own_copy)
    with pytest.raises(CheckpointError, match=said) as refusal:
        StreamingSegmenter.from_checkpoint(own_copy)
    assert "\n" not in str(refusal.value) and str(own_copy) in str(refusal.value)


def test_a_document_of_unheard_length_is_not_read(own_copy: Path) -> None:
    with (own_copy / "model.json").open("rb+") as file:
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match="no exported network says that much"):
        read_export(own_copy)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"precision": "bfloat16"}, r"precision bfloat16 cannot be had from .*, which is in float32"),
        ({"device": "gpu"}, "it must be auto, cpu, cuda or cuda:N"),
        ({"short_side": 360}, r"short_side is 360, and .* was exported for images of 70x94"),
        ({"short_side": -1}, "short_side is -1"),
    ],
)
def test_what_an_export_cannot_do_is_said(exported: Path, settings: dict, said: str) -> None:
    with pytest.raises((CheckpointError, DeviceError), match=said):
        StreamingSegmenter.from_checkpoint(exported, StreamConfig(**settings))


def test_a_gpu_is_asked_of_onnx_runtime_too(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="is built without CUDA; use device auto or cpu"):
        StreamingSegmenter.from_checkpoint(exported, StreamConfig(device="cuda"))
    assert StreamingSegmenter.from_checkpoint(exported).device.type == "cpu"


def test_without_onnx_runtime_an_export_says_what_to_install(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CheckpointError, match="pip install onnxruntime"):
        StreamingSegmenter.from_checkpoint(exported)


def test_without_its_packages_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "onnxscript" else found(name))
    assert export.main(["-o", str(tmp_path / "new")]) == 1
    assert capsys.readouterr().err == "export: onnxscript must be installed: pip install onnxscript\n"


@pytest.mark.parametrize("size", [(94, 70), (70, 100), (48, 94)])
def test_an_image_of_another_aspect_is_refused_and_the_next_good_one_labelled(
    exported: Path, size: tuple[int, int]
) -> None:
    engine = StreamingSegmenter.from_checkpoint(exported)
    assert engine.step(frames(1)[0], 0) is not None
    with pytest.raises(ImageError, match=rf"exported for images of 70x94 .* --camera-size {size[0]}x{size[1]}"):
        engine.step(frames(1, size)[0], PERIOD)
    assert engine.step(frames(1)[0], 2 * PERIOD) is not None


def test_an_image_of_nearly_the_aspect_is_stretched(exported: Path) -> None:
    result = StreamingSegmenter.from_checkpoint(exported).step(frames(1, (480, 640))[0], 0)
    assert result is not None and result.labels.shape == (480, 640)


def test_the_node_runs_an_export_and_rejects_images_of_another_aspect(exported: Path, ros_domain: int) -> None:
    pytest.importorskip("rclpy", reason="needs ROS 2")
    from graph import Graph, pixels

    graph = Graph({"checkpoint": str(exported), "threads": 1})
    try:
        graph.start()
        graph.send_image(frames(1, (94, 70))[0])
        graph.wait_message("94x70 pixels", "--camera-size 94x70")
        graph.wait_diagnostics(rejected_for_size="1", frames_rejected="1")
        assert pixels(graph.labels_of(frames(1)[0])).shape == CAMERA
    finally:
        graph.close()


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ([], (70, 93)),
        (["--camera-size", "720x1280"], (70, 124)),
        (["--camera-size", "720x1280", "--short-side", "144"], (144, 256)),
        (["--size", "96x160"], (96, 160)),
    ],
)
def test_the_size_follows_from_the_camera_or_is_given(
    network_of: Callable[[str], tuple[Path, Path]],
    tmp_path: Path,
    options: list[str],
    size: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def graphs(network: Any, info: Any, size: tuple[int, int], *_: object) -> None:
        asked.append(size)
        raise export.ExportError("enough")

    monkeypatch.setattr(export, "export_graphs", graphs)
    checkpoint = network_of("MAR alone")[0]
    assert export.main(["--checkpoint", str(checkpoint), "-o", str(tmp_path / "new"), *options]) == 1
    assert asked == [size]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--size", "32x64"], "--size is 32x64; sides have 64 to 8192 pixels"),
        (["--camera-size", "480x9000"], "--camera-size is 480x9000"),
        (["--short-side", "63"], "--short-side is 63; it must be at least 64"),
        (["--short-side", "7000"], "at most 8192 pixels a side"),
        (["--size", "64x64", "--short-side", "64"], "leave --short-side out"),
        (["--cameras", "0"], "--cameras is 0; it must be 1 to 64"),
        (["--opset", "23"], "--opset is 23; it must be 18 to 22"),
        (["--checkpoint", "none.safetensors"], "none.safetensors does not exist"),
    ],
)
def test_what_cannot_be_exported_is_one_line_before_the_work(
    tmp_path: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main(["-o", str(tmp_path / "new"), *options]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["a folder of other things", "an export with more in it", "a file"])
def test_nothing_that_is_no_export_is_replaced(own_copy: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    if what == "a folder of other things":
        (own_copy / "model.json").unlink()
    else:
        (own_copy / "notes.txt").write_text("mine")
    output = own_copy / "notes.txt" if what == "a file" else own_copy
    before = contents(own_copy)
    assert export.main(["-o", str(output)]) == 1
    assert "name " in capsys.readouterr().err
    assert contents(own_copy) == before

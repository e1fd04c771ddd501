"""A checkpoint is one file that gives back the network it was given, or says in one line why it cannot."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from stmem_ros.checkpoint import (
    FORMAT,
    FORMAT_VERSION,
    CheckpointError,
    CheckpointInfo,
    Normalization,
    load_checkpoint,
    load_rows,
    read_info,
    save_checkpoint,
)
from stmem_ros.labels import LabelSet
from stmem_ros.network import MARConfig, SegmenterConfig, STFConfig, VideoSegmenter, build_segmenter

LABELS = LabelSet(("ground", "disc"), ((90, 90, 90), (220, 40, 40)))


def new_checkpoint(base: str) -> tuple[VideoSegmenter, CheckpointInfo]:
    config = SegmenterConfig(
        base,
        classes=2,
        stf=STFConfig(block=(4, 4), positional_grid=(8, 8), feedforward=8),
        mar=MARConfig(memory_classes=2, hard_per_class=3),
    )
    normalization = Normalization((100.0, 110.5, 120.0), (50.0, 60.0, 70.0))
    provenance = {"stages": ["base"], "figures": {"miou": 12.5, "odd": None}, "note": "grün"}
    return build_segmenter(config).eval(), CheckpointInfo(config, LABELS, normalization, 360, provenance)


@pytest.fixture
def saved(pixel_base: str, tmp_path: Path) -> Path:
    path = tmp_path / "network.safetensors"
    save_checkpoint(path, *new_checkpoint(pixel_base))
    return path


def change(path: Path, tensors: Callable[[dict], object] = dict, header: Callable[[dict], object] = dict) -> None:
    """Write the file again with other tensors, or another header, both changed in place."""
    state = load_file(path)
    with safe_open(path, framework="pt") as file:
        document = json.loads(file.metadata()[FORMAT])
    tensors(state)
    header(document)
    save_file(state, path, metadata={FORMAT: json.dumps(document)})


def refusal(path: Path, read: Callable[[Path], Any] = load_checkpoint) -> str:
    """The one line that says why the file is refused; it names the file."""
    with pytest.raises(CheckpointError) as raised:
        read(path)
    message = str(raised.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_what_is_loaded_is_what_was_saved(pixel_base: str, tmp_path: Path) -> None:
    model, info = new_checkpoint(pixel_base)
    path = tmp_path / "new" / "folder" / "network.safetensors"
    save_checkpoint(path, model, info)
    loaded, loaded_info = load_checkpoint(path)
    assert loaded_info == info == read_info(path)
    assert not loaded.training
    clip = torch.randn(1, 3, 3, 64, 70)
    with torch.inference_mode():
        assert torch.equal(loaded(clip), model(clip))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_default_network_survives_too(tmp_path: Path) -> None:
    config = SegmenterConfig("efficientnet_lite0", classes=2, classifier_upscale=2)
    model = build_segmenter(config).eval()
    info = CheckpointInfo(config, LABELS, Normalization(model.base.mean, model.base.std), 360)
    save_checkpoint(tmp_path / "a.safetensors", model, info)
    loaded, _ = load_checkpoint(str(tmp_path / "a.safetensors"))
    images = torch.randn(1, 1, 3, 64, 70)
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        (None, "is a folder without model.json, so no exported network: a checkpoint is a .safetensors file"),
        ("model.safetensors", "so no exported network: give {}/model.safetensors"),
        ("model.json", "is an exported network, which node, bag commands and benchmark --export run: here give the"),
    ],
)
def test_a_folder_instead_of_a_file_is_named_with_what_to_give(tmp_path: Path, inside: str | None, said: str) -> None:
    if inside is not None:
        (tmp_path / inside).touch()
    for read in (read_info, load_checkpoint, load_rows):
        assert said.format(tmp_path) in refusal(tmp_path, read)


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    path.touch()
    assert "is empty: writing or downloading it did not finish; get it again" in refusal(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_of_torch_save_is_led_to_the_import(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "psp50.pth"
    torch.save({"weight": torch.zeros(2)}, path, _use_new_zipfile_serialization=not legacy)
    assert f"python -m training.import_weights {path} psp50.safetensors" in refusal(path, read_info)


def test_a_single_graph_is_led_to_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "frame.onnx"
    path.write_bytes(b"\x08\x08")
    assert "is one graph of an exported network: give the folder that training.export wrote" in refusal(path)
    assert "does not exist" in refusal(tmp_path / "other.onnx")


def test_a_header_whose_length_looks_like_a_pickle_is_read(saved: Path) -> None:
    data = saved.read_bytes()
    length = int.from_bytes(data[:8], "little")
    # Blanks fill the header up to a length whose lowest byte is 0x80, as that of a pickle.
    more = -(length - 0x80) % 256
    saved.write_bytes((length + more).to_bytes(8, "little") + data[8 : 8 + length] + b" " * more + data[8 + length :])
    assert saved.read_bytes()[0] == 0x80
    load_checkpoint(saved)


@pytest.mark.parametrize("content", [b"\x7fELF" + bytes(200), b"not a network" * 100])
def test_another_kind_of_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "network.safetensors"
    path.write_bytes(content)
    assert "damaged or no safetensors file" in refusal(path)
    assert "damaged or no safetensors file" in refusal(path, read_info)


@pytest.mark.parametrize("kept", [0.001, 0.1, 0.5, 0.999])
def test_a_truncated_file(saved: Path, kept: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * kept)])
    assert "damaged" in refusal(saved)


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    path, witness = tmp_path / "network.safetensors", tmp_path / "it_ran"

    class Payload:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(witness),)

    path.write_bytes(pickle.dumps(Payload()))
    assert "no safetensors file" in refusal(path)
    torch.save({"payload": Payload()}, path)
    assert "no safetensors file" in refusal(path)
    assert not witness.exists()


def test_a_missing_tensor(saved: Path) -> None:
    change(saved, tensors=lambda state: state.pop("mar.keys"))
    assert "lacks tensor mar.keys" in refusal(saved)


def test_a_mis_shaped_tensor(saved: Path) -> None:
    change(saved, tensors=lambda state: state.update({"mar.keys": torch.zeros(2, 4, 4)}))
    assert "mar.keys of shape (2, 4, 4); its configuration asks for (2, 3, 4)" in refusal(saved)


def test_an_unknown_tensor(saved: Path) -> None:
    change(saved, tensors=lambda state: state.update({"sur\nprise": torch.zeros(1)}))
    assert r"has tensor 'sur\nprise'" in refusal(saved)


def test_a_newer_format(saved: Path) -> None:
    change(saved, header=lambda document: document.update(version=FORMAT_VERSION + 1, config="of a new kind"))
    message = refusal(saved)
    assert f"format {FORMAT_VERSION + 1}; this stmem_ros reads up to {FORMAT_VERSION}" in message
    assert "update" in message


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_safetensors_file_of_another_program(tmp_path: Path, metadata: dict | None) -> None:
    path = tmp_path / "network.safetensors"
    save_file({"weight": torch.zeros(2)}, path, metadata=metadata)
    assert "not of stmem_ros" in refusal(path)
    assert "training.import_weights" in refusal(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "{}", '"version"', "[" * 100_000])
def test_a_header_that_is_no_document(tmp_path: Path, text: str) -> None:
    path = tmp_path / "network.safetensors"
    save_file({"weight": torch.zeros(2)}, path, metadata={FORMAT: text})
    assert "header" in refusal(path)
    assert "header" in refusal(path, read_info)


@pytest.mark.parametrize(
    ("change_header", "reason"),
    [
        (lambda document: document.pop("version"), "header without 'version'"),
        (lambda document: document.pop("palette"), "header without 'palette'"),
        (lambda document: document.update(version="1"), "format '1'"),
        (lambda document: document.update(version=0), "format 0"),
        (lambda document: document["config"].update(base="resnet"), "'resnet'; it must be one of"),
        (lambda document: document["config"].update(classes=3), "2 class names for a network of 3 classes"),
        (lambda document: document["config"].update(surprise=1), "surprise"),
        (lambda document: document["config"]["stf"].update(heads=3), "stf.heads is 3"),
        (lambda document: document["config"]["stf"].update(positional_grid=[2**40, 2**40]), "stf.positional_grid is"),
        (lambda document: document["config"].update(stf=7), "does not fit"),
        (lambda document: document.update(names=["a", "a"]), "'a' is listed twice"),
        (lambda document: document.update(names=5), "header that cannot be used"),
        (lambda document: document.update(palette=[[0, 0, 0], [0, 0, 256]]), "'disc' is [0, 0, 256]"),
        (lambda document: document.update(palette=[[0, 0, 0], [0, 0, float("inf")]]), "header that cannot be used"),
        (lambda document: document["normalization"].update(std=[1, 0, 1]), "normalization.std"),
        (lambda document: document["normalization"].update(mean=[1, 2]), "normalization.mean has 2 values"),
        (lambda document: document.update(short_side=63), "short_side is 63"),
        (lambda document: document.update(short_side="360"), "short_side is '360'"),
    ],
)
def test_a_header_that_describes_no_network(saved: Path, change_header: Callable, reason: str) -> None:
    change(saved, header=change_header)
    assert reason in refusal(saved)


def test_a_full_disk_leaves_the_old_file_as_it_was(
    saved: Path, pixel_base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, full)
            message = refusal(saved, lambda path: save_checkpoint(path, *new_checkpoint(pixel_base)))
        assert "No space left on device" in message
        assert saved.read_bytes() == before
        assert [file.name for file in saved.parent.iterdir()] == [saved.name]


def test_an_interrupted_save_leaves_the_old_file_as_it_was(
    saved: Path, pixel_base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(saved, *new_checkpoint(pixel_base))
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


def test_a_target_that_cannot_be_written(tmp_path: Path, pixel_base: str) -> None:
    (tmp_path / "file").write_text("in the way")

    def save(path: Path) -> None:
        save_checkpoint(path, *new_checkpoint(pixel_base))

    assert "could not be written" in refusal(tmp_path / "file" / "network.safetensors", save)
    assert "could not be written" in refusal(tmp_path, save)


@pytest.mark.parametrize(
    ("message", "changed"),
    [
        ("1 class names for a network of 2", {"labels": LabelSet(("ground",), ((0, 0, 0),))}),
        ("short_side is 0", {"short_side": 0}),
    ],
)
def test_what_does_not_fit_together_is_not_saved(pixel_base: str, message: str, changed: dict) -> None:
    _, info = new_checkpoint(pixel_base)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(info, **changed)


def test_rows_beside_the_network_come_back_and_share_what_is_equal(pixel_base: str, tmp_path: Path) -> None:
    model, info = new_checkpoint(pixel_base)
    config = dataclasses.replace(info.config, mar=None)
    row = build_segmenter(config).eval()
    row.stf.load_state_dict(model.stf.state_dict())  # type: ignore[union-attr]
    path = tmp_path / "rows.safetensors"
    save_checkpoint(path, model, info, {"stf": (row, config)})
    plain = tmp_path / "plain.safetensors"
    save_checkpoint(plain, model, info)
    assert load_rows(plain) == {}

    loaded, its_info = load_rows(path)["stf"]
    assert its_info.config == config and its_info.labels == info.labels
    assert loaded.state_dict().keys() == row.state_dict().keys()
    for name, tensor in row.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    # The network itself is what it is without rows, and what both have is kept once.
    for name, tensor in load_checkpoint(path)[0].state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    stored = set(load_file(path)) - set(load_file(plain))
    assert stored == {"rows.stf.classifier.linear.weight"}


def test_a_row_whose_tensor_is_missing_is_named(pixel_base: str, tmp_path: Path) -> None:
    model, info = new_checkpoint(pixel_base)
    config = dataclasses.replace(info.config, mar=None)
    path = tmp_path / "rows.safetensors"
    save_checkpoint(path, model, info, {"stf": (build_segmenter(config), dataclasses.replace(config, classes=2))})
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    document = json.loads(metadata[FORMAT])
    document["rows"]["stf"]["stf"]["feedforward"] = 16
    save_file(tensors, path, {FORMAT: json.dumps(document)})
    with pytest.raises(CheckpointError, match=r"rows.safetensors has .*feedforward.* of shape"):
        load_rows(path)
    load_checkpoint(path)

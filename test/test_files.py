"""Files of tensors: what is read of them, and what is left behind."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stmem_ros.files import open_tensors

NUMBERS = torch.arange(1000, dtype=torch.float32)


class RefusedError(Exception):
    """As a caller's own."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.safetensors"
    save_file({"numbers": NUMBERS, "half": NUMBERS.half(), "none": NUMBERS[:0]}, path, metadata={"made": "here"})
    return path


def mapped() -> int:
    """How many mappings this process has of files of tensors, its own copies and others."""
    return sum("memfd:tensors" in line or ".safetensors" in line for line in Path("/proc/self/maps").open())


def test_names_shapes_and_tensors_are_those_of_the_file(path: Path) -> None:
    with open_tensors(path, RefusedError) as file:
        assert sorted(file.keys()) == ["half", "none", "numbers"] and file.metadata() == {"made": "here"}
        assert file.shape("numbers") == (1000,) and file.shape("none") == (0,)
        assert torch.equal(file.get_tensor("numbers"), NUMBERS)
        assert torch.equal(file.get_tensor("half"), NUMBERS.half())
        assert file.shape("half") == (1000,) and sorted(file.keys()) == ["half", "none", "numbers"]


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool]
)
def test_every_type_of_number_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype)
    save_file({"a": tensor[:1].clone(), "numbers": tensor, "one": tensor[0, 1].clone()}, tmp_path / "x")
    with open_tensors(tmp_path / "x", RefusedError) as file:
        assert torch.equal(file.get_tensor("numbers"), tensor)
        assert torch.equal(file.get_tensor("one"), tensor[0, 1])


def test_loading_again_and_again_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "many.safetensors"
    save_file({f"tensor{number}": NUMBERS[:3].clone() for number in range(100)}, path)

    def load() -> None:
        with open_tensors(path, RefusedError) as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                file.get_tensor(name)

    load()
    tracemalloc.start()
    try:
        load()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(10):
            load()
        # Less than a byte for each of a thousand tensors.
        assert tracemalloc.get_traced_memory()[0] - before < 1000
    finally:
        tracemalloc.stop()


def test_tensors_stay_when_the_file_has_gone(path: Path) -> None:
    with open_tensors(path, RefusedError) as file:
        kept = file.get_tensor("numbers")
    path.write_bytes(bytes(100))
    path.unlink()
    assert torch.equal(kept, NUMBERS)


@pytest.mark.parametrize("kind", ["header", "tensors", "damaged", "changed", "left early"])
def test_no_file_and_no_mapping_is_left_open(path: Path, kind: str) -> None:
    if kind == "damaged":
        os.truncate(path, 1000)
    before, maps = len(os.listdir("/proc/self/fd")), mapped()
    for _ in range(5):
        try:
            with open_tensors(path, RefusedError) as file:
                assert file.metadata()
                if kind == "changed":
                    os.utime(path)
                if kind == "left early":
                    raise RefusedError
                if kind != "header":
                    file.get_tensor("numbers")
        except RefusedError:
            assert kind in ("damaged", "changed", "left early")
        else:
            assert kind in ("header", "tensors")
    assert len(os.listdir("/proc/self/fd")) == before and mapped() == maps


def test_a_header_that_claims_more_than_the_file_holds_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "vast.safetensors"
    header = json.dumps({"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        # Takes no room on the disk.
        file.truncate(1 << 33)
    tracemalloc.start()
    try:
        with pytest.raises(RefusedError, match="damaged or no safetensors file"), open_tensors(path, RefusedError):
            pass
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("length", [0, 1, 7, 8, 50, 1 << 40, (1 << 64) - 1])
def test_a_length_of_the_header_that_cannot_be_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(RefusedError, match=r"odd\.safetensors is damaged or no safetensors file"):
        open_tensors(path, RefusedError).__enter__()


def test_a_header_alone_is_read_without_the_tensors(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_tensors(path, RefusedError) as file:
        monkeypatch.setattr("stmem_ros.files.PIECE", None)
        assert file.shape("numbers") == (1000,)
        with pytest.raises(TypeError):
            file.get_tensor("numbers")

"""MAR's memory: exactly the features that a sort over all of them would choose, in a file that comes back whole."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from stmem_ros.checkpoint import CheckpointInfo, Normalization, load_checkpoint, save_checkpoint
from stmem_ros.labels import IGNORE_INDEX, LabelSet
from stmem_ros.network import MAR, MARConfig, SegmenterConfig, STFConfig, build_segmenter
from stmem_ros.preprocess import Preprocessor
from training import build_memory as command
from training.build_memory import build_memory, main
from training.data.clips import WindowConfig, Windows
from training.data.dataset import DatasetSpec, list_frames, list_images, load_spec, read_frame
from training.stages.memory import FORMAT, FORMAT_VERSION, Memory, MemoryBankError, MemoryBuilder, nearest

NAMES = ("ground", "disc", "box")
NORMALIZATION = Normalization((80.0, 90.0, 100.0), (40.0, 80.0, 120.0))
STF = STFConfig(block=(8, 8), positional_grid=(8, 8), heads=1, feedforward=4)
CPU = torch.device("cpu")


def numbered(images: int, height: int, width: int) -> Tensor:
    """Features `(images, 2, height, width)` that tell in which order they came: n and -n."""
    numbers = torch.arange(images * height * width, dtype=torch.float32).view(images, 1, height, width)
    return torch.cat([numbers, -numbers], 1)


def sure(predicted: Tensor, margin: Tensor, classes: int) -> Tensor:
    """Logits `(N, classes, h, w)`: `margin` for the predicted class, 0 for the others; equal margins are ties."""
    return F.one_hot(predicted, classes).permute(0, 3, 1, 2) * margin[:, None]


def correct(predicted: Tensor, margin: Tensor, labels: Tensor, label: int) -> list[tuple[float, int]]:
    """Margin and number of every correct feature of class `label`."""
    features = zip(predicted.flatten().tolist(), margin.flatten().tolist(), labels.flatten().tolist(), strict=True)
    return [(sure, number) for number, (guess, sure, truth) in enumerate(features) if guess == truth == label]


def grid(*rows: list[float]) -> Tensor:
    return torch.tensor([rows])


def built(*batches: tuple[Tensor, Tensor, Tensor], hard: int = 1, confident: int = 1, **choice: bool) -> Memory:
    """The memory of two-channel features, by a builder that sees these batches of features, logits and labels."""
    classes = batches[0][1].shape[1]
    builder = MemoryBuilder(classes, 2, hard, confident)
    for batch in batches:
        builder.update(*batch)
    return builder.result(NAMES[:classes], **choice)


class TestChoice:
    @settings(max_examples=150, deadline=None)
    @given(
        seed=st.integers(0, 2**32 - 1),
        shape=st.tuples(st.integers(1, 7), st.integers(1, 4), st.integers(1, 4)),
        levels=st.integers(1, 5),
        hard=st.integers(1, 6),
        confident=st.integers(1, 6),
        cuts=st.sets(st.integers(1, 6)),
    )
    def test_is_that_of_a_sort_over_all_features_however_they_are_batched(
        self, seed: int, shape: tuple[int, int, int], levels: int, hard: int, confident: int, cuts: set[int]
    ) -> None:
        random = torch.Generator().manual_seed(seed)
        predicted = torch.randint(0, 3, shape, generator=random)
        margin = torch.randint(1, levels + 1, shape, generator=random) / 2
        labels = torch.where(torch.rand(shape, generator=random) < 0.7, predicted, 1)
        labels[torch.rand(shape, generator=random) < 0.1] = IGNORE_INDEX
        pass_ = (numbered(*shape), sure(predicted, margin, 3), labels)

        right = [correct(predicted, margin, labels, label) for label in range(3)]
        classes = tuple(label for label in range(3) if len(right[label]) >= max(hard, confident))
        bounds = [0, *sorted(cut for cut in cuts if cut < shape[0]), shape[0]]
        batches = [tuple(part[a:b] for part in pass_) for a, b in itertools.pairwise(bounds)]
        if not classes:
            with pytest.raises(MemoryBankError):
                built(*batches, hard=hard, confident=confident, allow_missing=True)
            return
        memory = built(*batches, hard=hard, confident=confident, allow_missing=True)
        assert memory.classes == classes
        assert memory.counts == tuple(map(len, right))
        for row, label in enumerate(classes):
            lowest = sorted(right[label])[:hard]
            highest = sorted(right[label], key=lambda feature: (-feature[0], feature[1]))[:confident]
            assert memory.keys[row, :, 0].tolist() == [number for _, number in lowest]
            assert memory.values[row, 0, 0].item() == pytest.approx(np.mean([number for _, number in highest]))
            for kept, chosen in ((memory.key_confidence, lowest), (memory.value_confidence, highest)):
                odds = np.exp([margin for margin, _ in chosen])
                assert kept[row].numpy() == pytest.approx(odds / (odds + 2))
        assert torch.equal(memory.keys[..., 0], -memory.keys[..., 1])

    @pytest.mark.parametrize("upscale", [1, 2, 3])
    def test_with_an_upscaling_classifier_goes_by_the_mean_of_a_features_cells(self, upscale: int) -> None:
        random = torch.Generator().manual_seed(upscale)
        features = numbered(4, 5, 6)
        logits = torch.randn(4, 3, 5 * upscale, 6 * upscale, generator=random)
        labels = torch.randint(0, 3, (4, 5, 6), generator=random, dtype=torch.uint8)
        exp = np.exp(logits.double().numpy())
        cells = (exp / exp.sum(1, keepdims=True)).reshape(4, 3, 5, upscale, 6, upscale).mean((3, 5))
        memory = built((features, logits, labels), hard=4, confident=2)
        for label in range(3):
            right = (cells.argmax(1) == label) & (labels.numpy() == label)
            order = np.flatnonzero(right)[np.argsort(cells.max(1)[right], kind="stable")]
            assert memory.counts[label] == len(order)
            assert memory.keys[label, :, 0].tolist() == order[:4].tolist()
            assert memory.values[label, 0, 0].item() == pytest.approx(order[-2:].mean())

    def test_tells_sure_features_from_surer_ones(self) -> None:
        # In float32 the softmax of all of these is 1.
        logits = sure(torch.zeros(1, 1, 4).long(), grid([20.0, 24.0, 22.0, 19.0]), 2)
        memory = built((numbered(1, 1, 4), logits, torch.zeros(1, 1, 4).long()), allow_missing=True)
        assert memory.values[0, 0, 0] == 1
        assert memory.keys[0, 0, 0] == 3

    def test_leaves_out_what_is_misclassified_or_void(self) -> None:
        predicted, margin = grid([0, 0, 0, 1, 1, 1]), grid([9.0, 2.0, 0.1, 9.0, 3.0, 0.1])
        labels = grid([1, 0, IGNORE_INDEX, IGNORE_INDEX, 1, 0]).to(torch.uint8)
        memory = built((numbered(1, 1, 6), sure(predicted, margin, 2), labels))
        assert memory.counts == (1, 1)
        assert memory.keys[:, 0, 0].tolist() == memory.values[:, 0, 0].tolist() == [1, 4]

    def test_takes_the_label_at_the_centre_of_a_features_cell(self) -> None:
        labels = torch.full((1, 6, 9), IGNORE_INDEX, dtype=torch.uint8)
        labels[0, 4, 7] = 0
        logits = sure(torch.zeros(1, 2, 3).long(), torch.ones(1, 2, 3), 2)
        memory = built((numbered(1, 2, 3), logits, labels), allow_missing=True)
        assert memory.counts == (1, 0)
        assert memory.keys[0, 0, 0] == 5

    @pytest.mark.parametrize("size", [(1, 1), (4, 7), (23, 30), (45, 60), (90, 131)])
    def test_resizes_labels_as_pytorchs_nearest_exact_does(self, size: tuple[int, int]) -> None:
        labels = torch.arange(90 * 121).view(1, 90, 121)
        expected = F.interpolate(labels[:, None].double(), size, mode="nearest-exact")[:, 0].long()
        assert torch.equal(nearest(labels, size), expected)

    def test_keeps_a_state_of_one_size(self) -> None:
        builder = MemoryBuilder(3, 64, 5, 4)
        sizes = []
        for seed in range(30):
            random = torch.Generator().manual_seed(seed)
            predicted = torch.randint(0, 3, (2, 16, 16), generator=random)
            features = torch.randn(2, 64, 16, 16, generator=random, requires_grad=True)
            builder.update(features, sure(predicted, torch.rand(2, 16, 16, generator=random), 3), predicted)
            # What is kept of a batch would come along, whole, also behind a view.
            sizes.append(len(pickle.dumps(builder)))
        assert max(sizes) - min(sizes) < 100
        assert not builder.result(NAMES).keys.requires_grad

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
    def test_is_the_same_on_a_gpu(self) -> None:
        random = torch.Generator().manual_seed(0)
        predicted = torch.randint(0, 3, (4, 20, 20), generator=random)
        margin = torch.randint(1, 9, (4, 20, 20), generator=random) / 2
        pass_ = (numbered(4, 20, 20), sure(predicted, margin, 3), predicted.to(torch.uint8))
        builder = MemoryBuilder(3, 2, device="cuda")
        builder.update(*pass_)
        ours, theirs = built(pass_, hard=10, confident=10), builder.result(NAMES)
        assert torch.equal(ours.keys, theirs.keys)
        torch.testing.assert_close(ours.values, theirs.values)

    @pytest.mark.parametrize("poison", [float("nan"), float("inf")])
    @pytest.mark.parametrize("place", [0, 1])
    def test_refuses_features_that_are_not_finite(self, poison: float, place: int) -> None:
        batch = [numbered(2, 3, 3), torch.zeros(2, 2, 3, 3), torch.full((2, 3, 3), IGNORE_INDEX)]
        batch[place][1, 0, 1, 2] = poison
        with pytest.raises(MemoryBankError, match=f"the network's {('features', 'logits')[place]} hold NaN or infin"):
            MemoryBuilder(2, 2).update(*batch)

    @pytest.mark.parametrize(
        ("features", "logits", "labels", "reason"),
        [
            ((1, 3, 4, 4), (1, 2, 4, 4), (1, 8, 8), r"features are \(1, 3, 4, 4\); this memory takes \(N, 2, h, w\)"),
            ((1, 2, 4, 4), (1, 3, 4, 4), (1, 8, 8), r"logits are \(1, 3, 4, 4\)"),
            ((1, 2, 4, 4), (1, 2, 8, 4), (1, 8, 8), r"logits are \(1, 2, 8, 4\)"),
            ((1, 2, 4, 4), (1, 2, 2, 2), (1, 8, 8), r"logits are \(1, 2, 2, 2\)"),
            ((2, 2, 4, 4), (2, 2, 4, 4), (1, 8, 8), r"labels are \(1, 8, 8\); they must be \(2, H, W\)"),
        ],
    )
    def test_refuses_what_does_not_belong_together(
        self, features: tuple, logits: tuple, labels: tuple, reason: str
    ) -> None:
        with pytest.raises(ValueError, match=reason):
            MemoryBuilder(2, 2).update(torch.zeros(features), torch.zeros(logits), torch.zeros(labels).long())

    @pytest.mark.parametrize("name", ["hard_per_class", "confident_per_class"])
    def test_refuses_a_memory_of_nothing(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"{name} is 0; a memory takes at least 1"):
            MemoryBuilder(2, 2, **{name: 0})


class TestMissingClass:
    """Class ground has four correct features, disc two, box none."""

    PASS = (
        numbered(1, 1, 7),
        sure(grid([0, 0, 0, 0, 1, 1, 2]), torch.ones(1, 1, 7), 3),
        grid([0, 0, 0, 0, 1, 1, 0]),
    )

    @pytest.mark.parametrize(("hard", "confident"), [(3, 1), (1, 3)])
    def test_is_named_with_what_it_has_and_what_to_do(self, hard: int, confident: int) -> None:
        with pytest.raises(MemoryBankError) as raised:
            built(self.PASS, hard=hard, confident=confident)
        message = str(raised.value)
        assert "disc (2), box (0); a memory takes 3 of each class" in message
        assert "ground" not in message and "\n" not in message
        for way_out in ("train the network longer", "--hard", "--confident", "--allow-missing"):
            assert way_out in message

    def test_is_left_out_where_that_is_allowed(self) -> None:
        memory = built(self.PASS, hard=2, confident=1, allow_missing=True)
        assert memory.classes == (0, 1)
        assert memory.missing == ("box",)
        assert memory.counts == (4, 2, 0)
        assert memory.keys[:, :, 0].tolist() == [[0, 1], [4, 5]]
        assert memory.config == MARConfig(memory_classes=2, hard_per_class=2)

    def test_in_the_middle_does_not_shift_the_others(self) -> None:
        features, logits, labels = self.PASS
        memory = built((features, logits[:, [0, 2, 1]], labels * 2), hard=2, allow_missing=True)
        assert memory.classes == (0, 2)
        assert memory.missing == ("disc",)
        assert memory.keys[:, :, 0].tolist() == [[0, 1], [4, 5]]

    def test_is_an_error_where_all_are_missing(self) -> None:
        with pytest.raises(MemoryBankError, match=r"ground \(4\), disc \(2\), box \(0\)") as raised:
            built(self.PASS, hard=5, allow_missing=True)
        assert "--allow-missing" not in str(raised.value)


@pytest.fixture
def memory() -> Memory:
    random = torch.Generator().manual_seed(0)
    predicted = torch.randint(0, 2, (1, 8, 8), generator=random)
    builder = MemoryBuilder(3, 4, hard_per_class=3, confident_per_class=2)
    builder.update(
        torch.randn(1, 4, 8, 8, generator=random),
        sure(predicted, torch.rand(1, 8, 8, generator=random), 3),
        predicted,
    )
    return builder.result(NAMES, allow_missing=True)


@pytest.fixture
def saved(memory: Memory, tmp_path: Path) -> Path:
    path = tmp_path / "memory.safetensors"
    memory.save(path)
    return path


def change(path: Path, tensors: Callable[[dict], object] = dict, header: Callable[[dict], object] = dict) -> None:
    """Write the file again with other tensors, or another header, both changed in place."""
    state = load_file(path)
    with safe_open(path, framework="pt") as file:
        document = json.loads(file.metadata()[FORMAT])
    tensors(state)
    header(document)
    save_file(state, path, metadata={FORMAT: json.dumps(document)})


def refusal(path: Path, use: Callable[[Path], Any] = Memory.load) -> str:
    """The one line that says why the file is refused; it names the file."""
    with pytest.raises(MemoryBankError) as raised:
        use(path)
    message = str(raised.value)
    assert str(path) in message
    assert "\n" not in message
    return message


class TestFile:
    def test_gives_back_what_was_saved(self, memory: Memory, tmp_path: Path) -> None:
        memory.provenance.update(dataset="shapes", note="grün")
        path = tmp_path / "new" / "folder" / "memory.safetensors"
        memory.save(path)
        loaded = Memory.load(str(path))
        for name in ("keys", "values", "key_confidence", "value_confidence"):
            assert torch.equal(getattr(loaded, name), getattr(memory, name))
        for name in ("classes", "counts", "names", "provenance", "missing", "config"):
            assert getattr(loaded, name) == getattr(memory, name)
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    def test_fills_a_mar(self, saved: Path) -> None:
        loaded = Memory.load(saved)
        mar = MAR(4, loaded.config)
        mar.set_memory(loaded.keys, loaded.values)
        assert torch.equal(mar.keys, loaded.keys) and torch.equal(mar.values, loaded.values)
        mar(torch.randn(1, 4, 3, 3)).sum().backward()
        assert mar.keys.grad is not None

    def test_that_does_not_exist(self, tmp_path: Path) -> None:
        assert "does not exist" in refusal(tmp_path / "absent.safetensors")
        assert "is not a file" in refusal(tmp_path)

    @pytest.mark.parametrize("kept", [0.01, 0.5, 0.999])
    def test_that_is_truncated(self, saved: Path, kept: float) -> None:
        data = saved.read_bytes()
        saved.write_bytes(data[: int(len(data) * kept)])
        assert "damaged or no safetensors file" in refusal(saved)

    @pytest.mark.parametrize("metadata", [None, {"stmem_ros": "{}"}])
    def test_of_another_kind(self, tmp_path: Path, metadata: dict | None) -> None:
        path = tmp_path / "network.safetensors"
        save_file({"keys": torch.zeros(2)}, path, metadata=metadata)
        assert "holds no memory" in refusal(path)

    @pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "{}", "[" * 100_000])
    def test_with_a_header_that_is_no_document(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "memory.safetensors"
        save_file({"keys": torch.zeros(2)}, path, metadata={FORMAT: text})
        assert "header" in refusal(path)

    @pytest.mark.parametrize(
        ("change_header", "reason"),
        [
            (lambda document: document.pop("names"), "header without 'names'"),
            (lambda document: document.update(version="1"), "format '1'"),
            (lambda document: document.update(version=0), "format 0"),
            (lambda document: document.update(version=FORMAT_VERSION + 1, names=7), "update the package"),
            (lambda document: document.update(names=7), "header that cannot be used"),
            (lambda document: document.update(names=["a", 2, "b"]), "names are"),
            (lambda document: document.update(classes=[]), "classes are []"),
            (lambda document: document.update(classes=[1, 0]), "classes are [1, 0]"),
            (lambda document: document.update(classes=[0, 3]), "classes are [0, 3]; they must be ids of the 3 names"),
            (lambda document: document.update(counts=[1]), "counts are [1]"),
            (lambda document: document.update(counts=[1, 2, "3"]), "counts are [1, 2, '3']"),
            (lambda document: document.update(channels=-4), "channels is -4"),
            (lambda document: document.update(hard_per_class=2.5), "hard_per_class is 2.5"),
            (lambda document: document.update(provenance=3), "provenance"),
            (lambda document: document.update(classes=[0]), "keys of shape (2, 3, 4); its header asks for (1, 3, 4)"),
            (lambda document: document.update(confident_per_class=9), "value_confidence of shape (2, 2)"),
        ],
    )
    def test_with_a_header_that_describes_another_memory(
        self, saved: Path, change_header: Callable, reason: str
    ) -> None:
        change(saved, header=change_header)
        assert reason in refusal(saved)

    @pytest.mark.parametrize(
        ("change_tensors", "reason"),
        [
            (lambda state: state.pop("values"), "lacks tensor values"),
            (lambda state: state.update(keys=torch.zeros(2, 4, 4)), "keys of shape (2, 4, 4)"),
            (lambda state: state.update(keys=torch.zeros(2, 3, 4).half()), "keys that are not finite float32"),
            (lambda state: state["values"].fill_(float("nan")), "values that are not finite float32"),
        ],
    )
    def test_with_other_tensors(self, saved: Path, change_tensors: Callable, reason: str) -> None:
        change(saved, tensors=change_tensors)
        assert reason in refusal(saved)

    def test_stays_as_it_was_where_the_disk_is_full(
        self, saved: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = saved.read_bytes()

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        for step in ("fsync", "replace"):
            with monkeypatch.context() as patch:
                patch.setattr(os, step, full)
                assert "could not be written: No space left on device" in refusal(saved, memory.save)
            assert saved.read_bytes() == before
            assert [file.name for file in saved.parent.iterdir()] == [saved.name]


@pytest.fixture
def spec(make_shapes: Callable[..., Path], tmp_path: Path) -> DatasetSpec:
    return load_spec(make_shapes(tmp_path, {"train": 4}, noise=60))


@pytest.fixture
def save(pixel_base: str, spec: DatasetSpec, tmp_path: Path) -> Callable[..., Path]:
    """Writes a checkpoint that gives every pixel the class of the nearest colour, unless STF garbles that."""

    def write(labels: LabelSet | None = None, poison: float = 0.0, **modules: Any) -> Path:
        labels = labels or spec.labels
        config = SegmenterConfig(pixel_base, len(labels), **modules)
        model = build_segmenter(config)
        mean, std = torch.tensor(NORMALIZATION.mean), torch.tensor(NORMALIZATION.std)
        colors = (torch.tensor(labels.palette) - mean) / std
        with torch.no_grad():
            model.classifier.linear.weight[:, :3, 0, 0] = colors
            model.classifier.linear.bias.copy_(-(colors**2).sum(1) / 2 + poison)
        path = tmp_path / "network.safetensors"
        save_checkpoint(path, model, CheckpointInfo(config, labels, NORMALIZATION, 96))
        return path

    return write


@pytest.fixture
def run(tmp_path: Path, spec: DatasetSpec) -> Callable[..., int]:
    def call(*more: str | Path) -> int:
        data = ["--dataset", str(tmp_path / "shapes.yaml"), "--root", str(tmp_path), "--device", "cpu"]
        return main([*data, "--output", str(tmp_path / "out" / "memory.safetensors"), *map(str, more)])

    return call


@pytest.fixture
def refused(
    run: Callable[..., int], save: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs the command, which must fail with one line and without a memory; returns the line."""

    def call(*more: str | Path, checkpoint: Path | None = None) -> str:
        assert run("--checkpoint", checkpoint or save(), *more) == 1
        said = capfd.readouterr()
        assert said.out == ""
        assert said.err.startswith("build_memory: ")
        assert said.err.count("\n") == 1
        assert not (tmp_path / "out" / "memory.safetensors").exists()
        return said.err

    return call


def remove_boxes(tmp_path: Path) -> None:
    for path in (tmp_path / "trainannot").iterdir():
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), np.where(labels == 2, 9, labels))


class TestCommand:
    def test_makes_the_memory_of_every_labelled_pixel_of_the_split(
        self,
        run: Callable[..., int],
        save: Callable[..., Path],
        spec: DatasetSpec,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        checkpoint = save()
        assert run("--checkpoint", checkpoint, "--hard", 7, "--confident", 5) == 0
        memory = Memory.load(tmp_path / "out" / "memory.safetensors")

        model, _ = load_checkpoint(checkpoint)
        frames = [read_frame(frame, spec) for frame in list_frames(spec, tmp_path, "train")]
        preprocess = Preprocessor(NORMALIZATION, 96, CPU)
        with torch.inference_mode():
            features = torch.cat([model.features(preprocess(image)) for image, _ in frames])
            confidence, predicted = model.classifier(features).double().softmax(1).max(1)
        pixels = features.permute(0, 2, 3, 1).flatten(0, 2)
        confidence, predicted = confidence.ravel(), predicted.ravel()
        labels = torch.from_numpy(np.concatenate([labels.ravel() for _, labels in frames]))
        assert ((predicted != labels) & (labels != IGNORE_INDEX)).sum() > 1000
        for label in range(3):
            right = torch.from_numpy(np.flatnonzero((predicted == label) & (labels == label)))
            assert memory.counts[label] == len(right)
            low = right[confidence[right].sort(stable=True).indices[:7]]
            high = right[confidence[right].sort(stable=True, descending=True).indices[:5]]
            assert torch.equal(memory.keys[label], pixels[low])
            torch.testing.assert_close(memory.values[label, 0], pixels[high].mean(0))
            torch.testing.assert_close(memory.key_confidence[label], confidence[low])
            torch.testing.assert_close(memory.value_confidence[label], confidence[high])
        assert memory.provenance["checkpoint"] == str(checkpoint)
        assert memory.provenance["made_from"]["frames"] == 4
        said = capsys.readouterr()
        for word in (*NAMES, f"{memory.counts[1]:,}", f"{memory.key_confidence[2, 0]:.4f}", "frames per second"):
            assert word in said.out
        assert said.err == ""
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["memory.safetensors"]

    def test_leaves_a_class_out_where_that_is_allowed_and_says_so(
        self,
        run: Callable[..., int],
        save: Callable[..., Path],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        remove_boxes(tmp_path)
        assert run("--checkpoint", save(), "--allow-missing") == 0
        assert Memory.load(tmp_path / "out" / "memory.safetensors").classes == (0, 1)
        said = capsys.readouterr()
        assert said.err == "memory: none for box: too few correct features\n"
        assert "box" in said.out

    def test_fuses_frames_where_the_checkpoint_does(
        self, run: Callable[..., int], save: Callable[..., Path], tmp_path: Path
    ) -> None:
        torch.manual_seed(0)
        checkpoint = save(stf=STF)
        few = ("--hard", 2, "--confident", 2, "--allow-missing")
        assert run("--checkpoint", checkpoint, *few) == 0
        fused = Memory.load(tmp_path / "out" / "memory.safetensors")
        assert fused.provenance["window"] == {"frames": 3, "query": 1, "offset": 1}
        # The last step of STF is a layer norm; the base's features have no such mean.
        assert fused.keys.mean(-1).abs().max() < 1e-5

    def test_frames_of_one_sequence_may_differ_in_size(
        self, run: Callable[..., int], save: Callable[..., Path], make_shapes: Callable[..., Path], tmp_path: Path
    ) -> None:
        make_shapes(tmp_path / "more", {"train": 2}, size=(110, 150))
        for folder in ("train", "trainannot"):
            for path in (tmp_path / "more" / folder).iterdir():
                path.rename(tmp_path / folder / path.name.replace("drive_", "drive_9"))
        few = ("--hard", 1, "--confident", 1, "--allow-missing")
        assert run("--checkpoint", save(), *few) == 0
        assert run("--checkpoint", save(stf=STF), *few) == 0


class TestWindows:
    """Five frames of one sequence, frame n of colour n all over."""

    @pytest.fixture
    def shown(
        self, save: Callable[..., Path], spec: DatasetSpec, make_shapes: Callable[..., Path], tmp_path: Path
    ) -> Callable[..., tuple[list, int, int]]:
        """The windows that STF sees, each with its query; how many frames the base computed, and most at hand."""

        def show(every: int = 1, offset: int = 1, query: int | None = None) -> tuple[list, int, int]:
            root = tmp_path / "clip"
            make_shapes(root, {"train": 5})
            frames = list_frames(spec, root, "train")
            for frame in frames:
                # The network normalises red as (x - 80) / 40.
                cv2.imwrite(str(frame.image), np.full((96, 128, 3), frame.number, np.uint8))
            model, info = load_checkpoint(save(stf=STF))
            computed, alive, seen = [], [], []
            model.base.register_forward_hook(lambda _, inputs, features: computed.append(weakref.ref(features)))

            class Recorder(nn.Module):
                config = STF

                def forward(self, window: Tensor, query: int) -> Tensor:
                    alive.append(sum(features() is not None for features in computed))
                    seen.append(((window[0, :, 0, 0, 0] * 40 + 80).round().int().tolist(), query))
                    return window[:, query]

            model.stf = Recorder()  # type: ignore[assignment]
            windows = Windows(list_images(spec, root, "train"), spec, WindowConfig(offset))
            chosen = frames[::every]
            build_memory(model, info, chosen, windows, spec, CPU, 1, 1, query=query, allow_missing=True)
            return seen, len(computed), max(alive)

        return show

    def test_are_around_every_labelled_frame_each_frame_computed_once(self, shown: Callable) -> None:
        seen, computed, alive = shown()
        assert seen == [([0, 0, 1], 1), ([0, 1, 2], 1), ([1, 2, 3], 1), ([2, 3, 4], 1), ([3, 4, 4], 1)]
        assert computed == 5
        assert alive == 3

    def test_may_end_with_the_labelled_frame(self, shown: Callable) -> None:
        seen, computed, _ = shown(query=2)
        assert seen == [([0, 0, 0], 2), ([0, 0, 1], 2), ([0, 1, 2], 2), ([1, 2, 3], 2), ([2, 3, 4], 2)]
        assert computed == 5

    def test_may_be_wide(self, shown: Callable) -> None:
        seen, computed, _ = shown(offset=2)
        assert seen == [([0, 0, 2], 1), ([1, 1, 3], 1), ([0, 2, 4], 1), ([1, 3, 3], 1), ([2, 4, 4], 1)]
        assert computed == 5

    def test_reach_for_frames_whose_labels_are_not_used(self, shown: Callable) -> None:
        seen, computed, _ = shown(every=2)
        assert seen == [([0, 0, 1], 1), ([1, 2, 3], 1), ([3, 4, 4], 1)]
        assert computed == 5


class TestRefusals:
    def test_a_class_with_too_few_correct_features(self, refused: Callable[..., str]) -> None:
        message = refused("--hard", 50_000)
        assert "too few features are classified correctly: ground (" in message
        assert "a memory takes 50000 of each class" in message

    def test_a_class_that_does_not_occur_is_known_before_the_network_runs(
        self, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        remove_boxes(tmp_path)
        monkeypatch.setattr(command, "build_memory", lambda *_: pytest.fail("the network ran first"))
        message = refused()
        assert "the train split of shapes" in message and "has no pixel of box; --allow-missing" in message

    def test_a_wrong_label_too(
        self, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cv2.imwrite(str(tmp_path / "trainannot" / "drive_000003.png"), np.full((96, 128), 77, np.uint8))
        monkeypatch.setattr(command, "build_memory", lambda *_: pytest.fail("the network ran first"))
        assert "drive_000003.png has label id 77" in refused()

    def test_a_checkpoint_of_other_classes(self, refused: Callable[..., str], save: Callable[..., Path]) -> None:
        labels = LabelSet(("ground", "box", "disc"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
        assert "class 1 is 'box' in" in refused(checkpoint=save(labels=labels))

    def test_a_checkpoint_with_mar(self, refused: Callable[..., str], save: Callable[..., Path]) -> None:
        assert "has MAR already" in refused(checkpoint=save(mar=MARConfig(memory_classes=3, hard_per_class=2)))

    def test_a_checkpoint_that_is_not_there(self, refused: Callable[..., str], tmp_path: Path) -> None:
        assert "absent.safetensors does not exist" in refused(checkpoint=tmp_path / "absent.safetensors")

    def test_a_network_that_has_diverged(self, refused: Callable[..., str], save: Callable[..., Path]) -> None:
        message = refused(checkpoint=save(poison=float("nan")))
        assert "drive_000000.png: the network's logits hold NaN or infinity" in message

    def test_an_image_that_is_none(self, refused: Callable[..., str], tmp_path: Path) -> None:
        (tmp_path / "train" / "drive_000001.png").write_text("hello")
        assert "drive_000001.png is damaged or no image" in refused()

    def test_a_folder_for_the_memory(self, refused: Callable[..., str], tmp_path: Path) -> None:
        assert "is a folder" in refused("--output", tmp_path)

    def test_a_place_for_the_memory_that_cannot_be_is_known_before_the_data_is_read(
        self, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(command, "load_spec", lambda *_: pytest.fail("the data was read first"))
        message = refused("--output", tmp_path / "shapes.yaml" / "memory.safetensors")
        assert "--output needs a folder where" in message and "shapes.yaml is a file" in message
        assert "is the checkpoint itself" in refused("--output", tmp_path / "network.safetensors")

    def test_which_leave_nothing_behind(self, refused: Callable[..., str], tmp_path: Path) -> None:
        refused("--hard", 50_000)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("setting", "reason"),
        [
            (("--hard", "0"), "hard_per_class is 0"),
            (("--confident", "-1"), "confident_per_class is -1"),
            (("--offset", "0"), "window.offset is 0"),
            (("--query", "3"), "query is 3; it must be a place in a window of 3 frames"),
        ],
    )
    def test_settings_that_mean_nothing(
        self, refused: Callable[..., str], save: Callable[..., Path], setting: tuple[str, str], reason: str
    ) -> None:
        assert reason in refused(*setting, checkpoint=save(stf=STF))

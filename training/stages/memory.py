"""The memory that MAR starts from: chosen in one pass over a split's features, kept in one file (paper, section 3.3).

`model.mar.set_memory(memory.keys, memory.values)` puts it into a network whose MAR is `MAR(channels, memory.config)`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialize
from torch import Tensor
from torch.nn import functional as F

from stmem_ros.files import one_line, open_tensors, whole_file
from stmem_ros.network import MARConfig

FORMAT = "stmem_ros_memory"
FORMAT_VERSION = 1


class MemoryBankError(Exception):
    """A memory that cannot be made, written or read: one line with the reason and what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class Memory:
    """Hard features and prototypes (paper, figure 8) of the M classes in `classes`, ids in rising order.

    `keys` `(M, K_L, d)` and `values` `(M, 1, d)` are float32, what `MAR.set_memory` takes. `key_confidence` `(M, K_L)`
    rises; `value_confidence` `(M, K_H)`, of the features behind each value, falls; both float64.
    `names` and `counts`, the correct features seen, are of all classes, also those without a memory.
    Of a memory that another program chose (`chosen_elsewhere`) the confidences are not known: keys have NaN, values
    no features behind them (K_H is 0), and `counts` are 0. `provenance` is free-form.
    """

    keys: Tensor
    values: Tensor
    key_confidence: Tensor
    value_confidence: Tensor
    classes: tuple[int, ...]
    counts: tuple[int, ...]
    names: tuple[str, ...]
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def config(self) -> MARConfig:
        """The MAR that holds it."""
        return MARConfig(memory_classes=len(self.classes), hard_per_class=self.keys.shape[1])

    @classmethod
    def chosen_elsewhere(cls, keys: Tensor, values: Tensor, names: tuple[str, ...]) -> Memory:
        """All classes' keys `(M, K_L, d)` and values `(M, 1, d)`, of which no more is known."""
        return cls(
            keys=keys.float().contiguous(),
            values=values.float().contiguous(),
            key_confidence=torch.full(keys.shape[:2], math.nan, dtype=torch.float64),
            value_confidence=torch.zeros(len(keys), 0, dtype=torch.float64),
            classes=tuple(range(len(names))),
            counts=(0,) * len(names),
            names=names,
        )

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the classes without a memory."""
        return tuple(name for label, name in enumerate(self.names) if label not in self.classes)

    def save(self, path: str | Path) -> None:
        """Write the file whole or not at all. Raises MemoryBankError."""
        path = Path(path)
        document = {
            "version": FORMAT_VERSION,
            "names": self.names,
            "classes": self.classes,
            "counts": self.counts,
            "channels": self.keys.shape[2],
            "hard_per_class": self.keys.shape[1],
            "confident_per_class": self.value_confidence.shape[1],
            "provenance": self.provenance,
        }
        tensors = {name: getattr(self, name).detach().cpu().contiguous() for name in _shapes(document)}
        data = serialize(tensors, metadata={FORMAT: json.dumps(document, sort_keys=True)})
        try:
            with whole_file(path) as partial:
                partial.write_bytes(data)
        except OSError as error:
            raise MemoryBankError(f"{path} could not be written: {error.strerror or one_line(error)}") from error

    @classmethod
    def load(cls, path: str | Path) -> Memory:
        """What `save` wrote, on the CPU. Raises MemoryBankError."""
        path = Path(path)
        with open_tensors(path, MemoryBankError) as file:
            document = _read_header(path, file)
            return cls(
                **_read_tensors(path, file, document),
                classes=tuple(document["classes"]),
                counts=tuple(document["counts"]),
                names=tuple(document["names"]),
                provenance=document["provenance"],
            )


class MemoryBuilder:
    """Chooses a memory from features that come batch by batch; exact, and the same however they are batched.

    A feature counts where the network gives its label the highest probability, its confidence. Per class the
    `hard_per_class` (K_L) least confident become keys, and the mean of the `confident_per_class` (K_H) most confident
    the value; of equally confident ones those that came first. Nothing else is kept, so memory does not grow.
    """

    def __init__(
        self,
        classes: int,
        channels: int,
        hard_per_class: int = 10,
        confident_per_class: int = 10,
        device: str | torch.device = "cpu",
    ) -> None:
        for name, count in (("hard_per_class", hard_per_class), ("confident_per_class", confident_per_class)):
            if count < 1:
                raise ValueError(f"{name} is {count}; a memory takes at least 1 feature of each class")
        self._needed = max(hard_per_class, confident_per_class)
        self._counts = [0] * classes
        self._hard = _Extremes(classes, hard_per_class, channels, False, device)
        self._confident = _Extremes(classes, confident_per_class, channels, True, device)

    @torch.no_grad()
    def update(self, features: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Features `(N, C, h, w)`, their logits `(N, classes, u*h, u*w)` and labels `(N, H, W)` of any size.

        A feature's label is that of the pixel at the centre of its cell, its probabilities the mean over its u x u
        logits' softmax. Raises MemoryBankError where features or logits are not finite, ValueError for other shapes.
        """
        self._check(features, logits, labels)
        device = self._hard.features.device
        channels, height, width = features.shape[1:]
        # In float32 every sure feature would have the confidence 1, and the first few would make the prototype.
        probabilities = F.avg_pool2d(logits.to(device).double().softmax(1), logits.shape[-1] // width)
        confidence, predicted = (tensor.flatten() for tensor in probabilities.max(1))
        right = predicted == nearest(labels.to(device), (height, width)).flatten()
        tokens = features.to(device).permute(0, 2, 3, 1).reshape(-1, channels)
        for label in predicted[right].unique().tolist():
            places = (right & (predicted == label)).nonzero()[:, 0]
            self._counts[label] += len(places)
            self._hard.update(label, confidence[places], tokens, places)
            self._confident.update(label, confidence[places], tokens, places)

    def result(self, names: tuple[str, ...], allow_missing: bool = False) -> Memory:
        """The memory on the CPU; `names` are the classes'.

        A class with fewer than K_L or K_H correct features raises MemoryBankError or, with `allow_missing`, has no
        memory; raises it in any case where no class has enough.
        """
        lacking = [label for label, count in enumerate(self._counts) if count < self._needed]
        there = tuple(label for label in range(len(self._counts)) if label not in lacking)
        if lacking and not (allow_missing and there):
            few = ", ".join(f"{names[label]} ({self._counts[label]})" for label in lacking)
            raise MemoryBankError(
                f"too few features are classified correctly: {few}; a memory takes {self._needed} of each class: "
                "train the network longer or ask for fewer (--hard, --confident)"
                + ("; --allow-missing leaves these classes without a memory" if there else "")
            )
        return Memory(
            keys=self._hard.features[list(there)].cpu(),
            values=self._confident.features[list(there)].mean(1, keepdim=True).cpu(),
            key_confidence=self._hard.confidence[list(there)].cpu(),
            value_confidence=self._confident.confidence[list(there)].cpu(),
            classes=there,
            counts=tuple(self._counts),
            names=tuple(names),
        )

    def _check(self, features: Tensor, logits: Tensor, labels: Tensor) -> None:
        classes, _, channels = self._hard.features.shape
        batch, height, width = features.shape[0], *features.shape[-2:]
        upscale = logits.shape[-1] // width
        if features.shape != (batch, channels, height, width):
            raise ValueError(f"features are {tuple(features.shape)}; this memory takes (N, {channels}, h, w)")
        if upscale < 1 or logits.shape != (batch, classes, upscale * height, upscale * width):
            raise ValueError(
                f"logits are {tuple(logits.shape)}; features {tuple(features.shape)} have "
                f"({batch}, {classes}, u*{height}, u*{width})"
            )
        if labels.ndim != 3 or len(labels) != batch:
            raise ValueError(f"labels are {tuple(labels.shape)}; they must be ({batch}, H, W)")
        for name, tensor in (("features", features), ("logits", logits)):
            if not tensor.isfinite().all():
                raise MemoryBankError(
                    f"the network's {name} hold NaN or infinity, of which no memory can be made: "
                    "its training went wrong, or its weights are damaged"
                )


class _Extremes:
    """Of each class the `count` features of lowest, or highest, confidence; of equals those that came first."""

    def __init__(self, classes: int, count: int, channels: int, highest: bool, device: str | torch.device) -> None:
        self._highest = highest
        worst = -math.inf if highest else math.inf
        self.confidence = torch.full((classes, count), worst, dtype=torch.float64, device=device)
        self.features = torch.zeros(classes, count, channels, device=device)

    def update(self, label: int, confidence: Tensor, tokens: Tensor, places: Tensor) -> None:
        """The features `tokens[places]` of class `label` and their confidence, in order of arrival."""
        new = self._best(confidence)
        confidence = torch.cat([self.confidence[label], confidence[new]])
        best = self._best(confidence)
        self.features[label] = torch.cat([self.features[label], tokens[places[new]].float()])[best]
        self.confidence[label] = confidence[best]

    def _best(self, confidence: Tensor) -> Tensor:
        # topk leaves the order of equals open; a stable sort does not.
        return confidence.sort(descending=self._highest, stable=True).indices[: self.confidence.shape[1]]


def nearest(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels `(N, H, W)` at the centres of a grid's cells: `(N, *size)`, PyTorch's "nearest-exact" for any type."""
    rows, columns = (
        (2 * torch.arange(cells, device=labels.device) + 1) * pixels // (2 * cells)
        for cells, pixels in zip(size, labels.shape[-2:], strict=True)
    )
    return labels[:, rows[:, None], columns]


def _read_header(path: Path, file: Any) -> dict[str, Any]:
    text = (file.metadata() or {}).get(FORMAT)
    if text is None:
        raise MemoryBankError(f"{path} holds no memory: its header has no {FORMAT!r} entry; build_memory writes one")
    try:
        document = json.loads(text)
        version = document["version"]
        if not isinstance(version, int) or version < 1:
            raise MemoryBankError(f"{path} has format {version!r}; formats are whole numbers from 1")
        if version > FORMAT_VERSION:
            raise MemoryBankError(
                f"{path} has format {version}; this stmem_ros reads up to {FORMAT_VERSION}: update the package"
            )
        names, classes, counts = document["names"], document["classes"], document["counts"]
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"names are {names}; they must be texts")
        if not classes or list(classes) != sorted(set(classes) & set(range(len(names)))):
            raise ValueError(f"classes are {classes}; they must be ids of the {len(names)} names, in order")
        if len(counts) != len(names) or not all(isinstance(count, int) for count in counts):
            raise ValueError(f"counts are {counts}; they must be a whole number for each of the {len(names)} names")
        for name, least in (("channels", 1), ("hard_per_class", 1), ("confident_per_class", 0)):
            if not isinstance(document[name], int) or document[name] < least:
                raise ValueError(f"{name} is {document[name]!r}; it must be a whole number of at least {least}")
        if not isinstance(document["provenance"], dict):
            raise ValueError("provenance is no mapping")
    except KeyError as error:
        raise MemoryBankError(f"{path} has a header without {error}") from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise MemoryBankError(f"{path} has a header that cannot be used: {one_line(error)}") from error
    return document


def _read_tensors(path: Path, file: Any, document: dict[str, Any]) -> dict[str, Tensor]:
    expected = _shapes(document)
    found = set(file.keys())
    for name, shape in expected.items():
        if name not in found:
            raise MemoryBankError(f"{path} lacks tensor {name}")
        there = file.shape(name)
        if there != shape:
            raise MemoryBankError(f"{path} has {name} of shape {there}; its header asks for {shape}")
    tensors = {name: file.get_tensor(name) for name in expected}
    for name in ("keys", "values"):
        if tensors[name].dtype != torch.float32 or not tensors[name].isfinite().all():
            raise MemoryBankError(f"{path} has {name} that are not finite float32 numbers; build the memory again")
    return tensors


def _shapes(document: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Which tensors a file holds."""
    classes, channels = len(document["classes"]), document["channels"]
    return {
        "keys": (classes, document["hard_per_class"], channels),
        "values": (classes, 1, channels),
        "key_confidence": (classes, document["hard_per_class"]),
        "value_confidence": (classes, document["confident_per_class"]),
    }

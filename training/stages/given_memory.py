"""A memory that comes in a file, this package's own or the authors'."""

from __future__ import annotations

from pathlib import Path

from stmem_ros.labels import LabelSet
from training.stages.memory import Memory, MemoryBankError
from training.weights.memory_files import is_memory, read_memory


def load_memory(path: Path, labels: LabelSet) -> Memory:
    """The memory of a file of training.build_memory, or of the authors' `key.npy` and `value.npy`, on the CPU.

    Raises MemoryBankError and WeightsError, also if it is not of these classes.
    """
    if is_memory(path):
        keys, values = read_memory(path, len(labels))
        return Memory.chosen_elsewhere(keys, values, labels.names)
    memory = Memory.load(path)
    if memory.names != labels.names:
        differing = [f"{theirs} for {ours}" for theirs, ours in zip(memory.names, labels.names) if theirs != ours]  # noqa: B905
        reason = differing[0] if differing else f"{len(memory.names)} classes for {len(labels)}"
        raise MemoryBankError(f"{path} is a memory of other classes than the data set's: it has {reason}")
    return memory

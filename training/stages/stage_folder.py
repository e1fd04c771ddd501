"""The folder of one stage of a run: what decides its outcome, its checkpoints, its result."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from stmem_ros.files import one_line, whole_file
from training.data.fingerprint import Fingerprint


class TrainingError(Exception):
    """Training that cannot begin or go on: one line with the place, the reason and what to do."""


class StageFolder:
    """The settings, logs, checkpoints and the result, `result`, of a stage."""

    def __init__(self, path: Path, result: str) -> None:
        self.path, self.result = path, path / result
        self.last, self.best = path / "last.ckpt", path / "best.ckpt"
        self._settings, self._files = path / "stage.json", path / "data.json"

    def begin(self, settings: dict[str, Any], files: Mapping[str, Fingerprint], first: bool = True) -> bool:
        """Note what decides the stage's outcome, or see that it is what the stage was begun with; True if it is done.

        `files` are the fingerprints behind `settings["data"]`, by their place there. Only the `first` process writes.
        A stage that has neither a whole epoch nor a result may begin with other settings. Which weights to keep may
        be decided anew as long as the stage is not done, and where there is no choice.
        Raises TrainingError if anything else differs (a stage is never half of one thing and half of another), and if
        the result is not what the stage wrote.
        """
        settings = json.loads(json.dumps(settings))
        before = self._read(self._settings)
        outcome = before.pop("outcome", None) if before else None
        if not self.last.is_file() and not self.result.is_file():
            before = outcome = None
        if before is not None:
            free = () if self.result.is_file() and self.best.is_file() else ("keep",)
            differing = next((each for each in _differences(before, settings) if each[0] not in free), None)
            if differing is not None:
                raise TrainingError(f"{self.path} was begun with {self._explain(*differing, files)}")
        if first and before != settings:
            self._write(self._files, {place: fingerprint.to_list() for place, fingerprint in files.items()})
            self._write(self._settings, settings)
        return self._is_done(outcome)

    def _is_done(self, outcome: dict[str, Any] | None) -> bool:
        # Without an outcome the process ended between the result and the note of it: both are made again.
        if outcome is None or not self.result.is_file():
            return False
        if file_digest(self.result) != outcome.get("sha256"):
            raise TrainingError(
                f"{self.result} is damaged or was replaced: it is not what this stage wrote. Delete it, and the same "
                "command makes it again"
            )
        return True

    def end(self, outcome: dict[str, Any]) -> None:
        """Note that the result is written, and what it came to. Raises TrainingError."""
        settings = self._read(self._settings) or {}
        self._write(self._settings, settings | {"outcome": outcome | {"sha256": file_digest(self.result)}})

    def wait(self) -> None:
        """Until another process has noted the end. (Before the first training the processes have no barrier.)"""
        while not (self.result.is_file() and self.outcome()):
            time.sleep(0.1)

    def outcome(self) -> dict[str, Any]:
        """What `end` noted; empty before that."""
        return (self._read(self._settings) or {}).get("outcome", {})

    def kept(self, keep: str) -> str:
        """`keep`, best or last; last where no validation has found a best."""
        return keep if self.best.is_file() else "last"

    def read_checkpoint(self, path: Path) -> dict[str, Any]:
        """What a checkpoint of training, `last` or `best`, holds. Raises TrainingError if it is damaged."""
        try:
            checkpoint = torch.load(path, "cpu", weights_only=True)
            missing = {"state_dict", "loops", "callbacks", "optimizer_states"} - set(checkpoint)
            reason = f"it has no {min(missing)}" if missing else ""
        except Exception as error:
            # Damaged pickles fail in every way there is.
            empty = path.is_file() and not path.stat().st_size
            reason = "it is empty" if empty else one_line(error).split(". ")[0] or type(error).__name__
        if reason:
            raise TrainingError(
                f"{path} is damaged or no checkpoint of training ({reason}): delete {self.path} to start this stage "
                "over"
            )
        return checkpoint

    def _explain(self, name: str, then: Any, now: Any, files: Mapping[str, Fingerprint]) -> str:
        """What differs, a file by its name, and what to do."""
        over = "or delete that folder to start this stage over"
        counted = ("frames", "sequences", "sha256")
        place = next((place for place in files if name in {f"data.{place}.{each}" for each in counted}), None)
        if place is not None:
            try:
                before = Fingerprint.from_list((self._read(self._files) or {})[place])
                clause = files[place].difference(before)
            except (KeyError, TypeError, ValueError):
                clause = ""
            if clause:
                return f"other data: {clause}: give another --run, put the data back as they were, {over}"
        return f"{name} = {then}, now it is {now}: give another --run, {over}"

    def _read(self, path: Path) -> dict[str, Any] | None:
        if not path.is_file():
            return None
        try:
            document = json.loads(path.read_text())
            if not isinstance(document, dict):
                raise ValueError("it holds no mapping")
        except (OSError, ValueError) as error:
            raise TrainingError(f"{path} cannot be read ({error}); delete {self.path} to start over") from error
        return document

    def _write(self, path: Path, document: dict[str, Any]) -> None:
        try:
            with whole_file(path) as partial:
                partial.write_text(json.dumps(document, indent=2 if path == self._settings else None) + "\n")
        except OSError as error:
            raise TrainingError(f"{path} could not be written: {error.strerror or error}") from error


def _differences(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(key for key in now if key not in before)]:
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield name, before, now


def digest(document: dict[str, Any]) -> str:
    """Eight characters that differ where the documents do."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:8]


def file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""The lists that name a split's frames: what a line says, and which files it means."""

from __future__ import annotations

import csv
import dataclasses
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from stmem_ros.sources import IMAGE_SUFFIXES
from training.data.dataset_spec import DatasetSpec
from training.data.folders import existing, small_ending
from training.data.frame_names import LabelledFrame, frame_of, misfit, without_ending
from training.data.label_images import DatasetError
from training.data.text_files import read_text

SEPARATORS = ("\t", ",", ";")
COMMENT = re.compile(r"^\s*#.*|\s#\s.*|\s#$")
QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
UNQUOTED = re.compile(r"^(['\"])(.*)\1$")
# A table's first line, such as image,label.
HEADING = re.compile(
    r"(image|img|frame|file|path|rgb|input)\w*\n(label|mask|annot|gt|ground|seg|target)\w*", re.IGNORECASE
)
# Between two names that hold blanks themselves: a blank behind the ending of an image.
BEHIND_ENDING = re.compile(rf"({'|'.join(map(re.escape, IMAGE_SUFFIXES))})\s+", re.IGNORECASE)
# What separates no names here, behind the ending of an image: a.png|labels/a.png, or a folder that would end so.
OTHER_MARK = re.compile(
    rf"(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))})\s*([-=]>|[^\w\s.()/-]|/|[^a-z0-9.](?=.*/))\s*\S", re.IGNORECASE
)
ABSOLUTE = re.compile(r"/|[A-Za-z]:/")


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a list: `where` it stands, for a person, its text and the names in it."""

    where: str
    text: str
    names: list[str]


def read_list(file: Path, spec: DatasetSpec) -> list[Line]:
    """The lines that hold names. Raises DatasetError where the file cannot be read."""
    try:
        text = read_text(file)
    except ValueError as error:
        raise DatasetError(f"{file}, the list of data set {spec.name}, cannot be read: {error}") from error
    lines: list[Line] = []
    for count, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        where = f"line {count} of {file}"
        try:
            names = names_in(line)
        except csv.Error as error:
            # Of a line of JSON, the quotation marks are closed.
            wrong = "is not closed" if "end of data" in str(error) else "stands within a name, not around it"
            raise DatasetError(f"{where} has a quotation mark that {wrong}: {line.strip()}") from error
        if names and (lines or not HEADING.fullmatch("\n".join(names))):
            lines.append(Line(where, line.strip(), names))
    return lines


def names_in(line: str) -> list[str]:
    """The names in a line: between tabs, else commas, else semicolons, else blanks. `#` begins a comment.

    A name may stand in quotation marks. Raises csv.Error where one is not closed.
    """
    line = COMMENT.sub("", line).strip()
    quote = "'" if line.startswith("'") else '"'
    bare = QUOTED.sub("", line)
    separator = next((each for each in SEPARATORS if each in bare), " ")
    if separator == " " and quote not in line:
        names = BEHIND_ENDING.sub(r"\1\n", line).split("\n")
        names = names if len(names) == 2 and names[1].lower().endswith(IMAGE_SUFFIXES) else line.split()
    else:
        names = next(csv.reader([line], delimiter=separator, quotechar=quote, skipinitialspace=True, strict=True), [])
    names = [UNQUOTED.sub(r"\2", name.strip()) for name in names]
    while names and not names[-1]:
        names.pop()
    return names


class ListedFrames:
    """Finds what lists name among the frames of a data set's folders, `found`.

    A path is one below the root, or below the folder of frames (of labels). Of a path on another machine, what stands
    before the part that is here is left out.
    """

    def __init__(
        self, root: Path, frames_folder: Path, labels_folder: Path, found: Iterable[LabelledFrame], spec: DatasetSpec
    ) -> None:
        self._root, self._frames_folder, self._labels_folder, self._spec = root, frames_folder, labels_folder, spec
        self._of_path: dict[str, LabelledFrame] = {}
        self._of_stem: dict[str, LabelledFrame] = {}
        self.sequences: dict[str, dict[int, LabelledFrame]] = {}
        for frame in found:
            path = os.path.abspath(frame.image)
            self._of_path[path] = self._of_stem[without_ending(path)] = frame
            self.sequences.setdefault(frame.sequence, {})[frame.number] = frame

    def frames(self, lines: Iterable[Line], problems: list[str]) -> Iterator[LabelledFrame]:
        """The frames that the lines name, each once; `problems` gets a line for each that names none."""
        seen: dict[tuple[str, int], Line] = {}
        for line in lines:
            for frame in self._named(line, problems):
                first = seen.setdefault((frame.sequence, frame.number), line)
                if first is line:
                    yield frame
                else:
                    problems.append(f"{line.where} names {frame.title} again, after {first.where.partition(' of ')[0]}")

    def _named(self, line: Line, problems: list[str]) -> list[LabelledFrame]:
        # A single name may hold what else separates two.
        alone = any((folder / line.text).is_file() for folder in (self._root, self._frames_folder))
        names = [line.text] if alone else line.names
        if len(names) > 2 or not names[0]:
            problems.append(
                f"{line.where} holds {len(names)} names ({', '.join(names)}); it may hold an image and, after a tab, "
                "comma or blank, its label image"
            )
            return []
        other = None if alone else next(filter(None, map(OTHER_MARK.search, names)), None)
        if other is not None:
            problems.append(
                f"{line.where} holds {line.text}, which looks like two names with {other[1]} between them: put a tab, "
                "comma, semicolon or blank there"
            )
            return []
        listed = PurePath(names[0].replace("\\", "/")).as_posix()
        if self._is_label(listed):
            problems.append(f"{line.where} names {names[0]} as an image, which lies in the folder of label images")
            return []
        frame = self._frame(listed)
        if frame is not None:
            return [frame] if len(names) == 1 else self._labelled(frame, listed, names[1], line, problems)
        sequence = next((tail for tail in _tails(listed) if tail in self.sequences), None)
        if sequence is not None and len(names) == 1:
            return list(self.sequences[sequence].values())
        known = frame_of(listed, Path(listed), self._labels_folder, self._spec)
        reason = "" if known else f": it {misfit(listed, self._spec)}; and no sequence is called so"
        problems.append(
            f"{line.where} names {names[0]}, which is no frame of data set {self._spec.name} in {self._root}{reason}"
        )
        return []

    def _is_label(self, listed: str) -> bool:
        apart = not Path(os.path.abspath(self._frames_folder)).is_relative_to(os.path.abspath(self._labels_folder))
        place = Path(os.path.abspath(self._root / listed))
        return apart and place.is_relative_to(os.path.abspath(self._labels_folder)) and place.is_file()

    def _frame(self, listed: str) -> LabelledFrame | None:
        """By its path, by the end of its path below the root, or by what its name says; None where there is none."""
        for folder in (self._root, self._frames_folder):
            place = folder / listed
            known = self._of_path.get(os.path.abspath(place))
            if known is not None:
                return known
            if place.is_file():
                found = frame_of(listed, place, self._labels_folder, self._spec)
                return found and dataclasses.replace(found, labels=existing(found.labels) or found.labels)
        stem = without_ending(listed)
        for place in (self._frames_folder / stem, *(self._root / tail for tail in _tails(stem))):
            known = self._of_stem.get(os.path.abspath(place))
            if known is not None:
                return known
        named = frame_of(listed, Path(listed), self._labels_folder, self._spec)
        # A bare number says nothing without its folder.
        if named is None or "sequence" not in self._spec.name_pattern.groupindex or not named.sequence:
            return None
        return self.sequences.get(named.sequence, {}).get(named.number)

    def _labelled(
        self, frame: LabelledFrame, listed: str, named: str, line: Line, problems: list[str]
    ) -> list[LabelledFrame]:
        """The frame with the label image that its line names, whatever label_name says."""
        image = os.path.abspath(frame.image)
        likely = self._label_places(frame, listed, named.replace("\\", "/"))
        places = [place for place in map(existing, likely) if place is not None]
        label = next((place for place in places if os.path.abspath(place) != image), None)
        if label is not None:
            return [dataclasses.replace(frame, labels=label)]
        reason = "the image itself" if places else f"no file in {self._root}"
        problems.append(f"{line.where} names label image {named}, which is {reason}")
        return []

    def _label_places(self, frame: LabelledFrame, listed: str, label: str) -> Iterator[Path]:
        """Where the label image of a line may lie, the likeliest place first."""
        yield self._root / label
        yield self._labels_folder / label
        if frame.image.is_relative_to(self._root):
            # What another machine has before the image's place here, it has before the label image's too.
            elsewhere = listed.removesuffix(frame.image.relative_to(self._root).as_posix())
            if elsewhere and elsewhere != listed and label.startswith(elsewhere):
                yield self._root / label.removeprefix(elsewhere)
        yield from (self._root / tail for tail in _tails(label) if "/" in tail)
        if ABSOLUTE.match(label):
            yield self._labels_folder / PurePath(label).name


def listed_labels(lines: Iterable[Line], folders: Iterable[Path]) -> set[Path]:
    """Where the label images that lines name may lie, one of the folders before each name, with small endings."""
    return {small_ending(folder / line.names[1]) for line in lines if len(line.names) == 2 for folder in folders}


def _tails(path: str) -> list[str]:
    """The ends of a path, the longest first: `a/b/c`, `b/c` and `c`."""
    parts = [part for part in path.split("/") if part]
    return ["/".join(parts[start:]) for start in range(len(parts))]

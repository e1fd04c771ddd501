"""The report of an evaluation: what its page says, holds and leaves out."""

from __future__ import annotations

import dataclasses
import html.parser
import importlib.util
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluations import CONFUSION, LABELS, START_NS, STEP_NS, evaluation, picture, sequence

from training.bag.report import ReportError, require_libraries, write_report
from training.bag.report.page import number, signed
from training.bag.report.tables import largest_confusions, row_shares
from training.bag.report.timeline import points_of_each, thinned
from training.bag.result import Comparison, Evaluation, FrameScore

pytest.importorskip("jinja2", reason="Jinja2, which the report is made with, is not installed")
offline = pytest.importorskip("plotly.offline", reason="plotly, which the report draws with, is not installed")

HOSTILE = '<script>alert("bag")</script>&<img src=x>'


class Page(html.parser.HTMLParser):
    """The page taken apart: `text` that is read, `scripts` by id, `tags` with their attributes, `rows` of tables."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str | None, str] = {}
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self._inside: str | None = None
        self._script: str | None = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag in ("script", "style"):
            self._inside, self._script = tag, attributes.get("id", f"script {len(self.scripts)}")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = None
        if tag == "table":
            self.rows.append([])

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        elif self._inside is None and data.strip():
            self.words.append(" ".join(data.split()))
            if self.rows and self.rows[-1]:
                self.rows[-1][-1] = f"{self.rows[-1][-1]} {self.words[-1]}".strip()

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts["data"])

    @property
    def images(self) -> list[str]:
        return json.loads(self.scripts["images"])

    def row(self, first: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == first)


@pytest.fixture(autouse=True)
def small_plotly(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of Plotly's five megabytes."""
    if "whole_page" not in request.node.name:
        monkeypatch.setattr(offline, "get_plotlyjs", lambda: "/* Plotly */")


@pytest.fixture
def write(tmp_path: Path):
    def call(evaluated: Evaluation, **options: Any) -> Page:
        write_report(evaluated, tmp_path / "out" / "report.html", **options)
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]
        return Page(tmp_path / "out" / "report.html")

    return call


def test_the_page_asks_for_nothing_outside_itself(write, tmp_path: Path) -> None:
    page = write(evaluation())
    for tag, attributes in page.tags:
        for name in ("src", "href", "data", "poster", "action", "srcset"):
            value = attributes.get(name) or ""
            assert not re.match(r"\s*(https?:|//)", value), (tag, attributes)
        assert tag not in ("iframe", "object", "embed", "base")
        assert tag != "link" or attributes["href"] == "data:,"
    style = (tmp_path / "out" / "report.html").read_text().partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style
    policy = next(attributes["content"] for tag, attributes in page.tags if tag == "meta" and "content" in attributes)
    assert policy is not None and policy.startswith("default-src 'none'; img-src data: blob:;")
    assert "http" not in policy and "connect-src" not in policy
    # The policy lets our two scripts run, and no other.
    assert policy.count("sha256-") == 2 and "script-src 'unsafe" not in policy


def test_the_whole_page_has_plotly_once(write, tmp_path: Path) -> None:
    write(evaluation())
    raw = (tmp_path / "out" / "report.html").read_text()
    assert raw.count(offline.get_plotlyjs()) == 1
    assert 4e6 < len(raw) < 6e6


def test_what_others_named_is_text_and_nothing_else(write, tmp_path: Path) -> None:
    named = sequence(bag=HOSTILE, topic=HOSTILE + "t", model=HOSTILE + "m", notes=(HOSTILE + "n",))
    labels = dataclasses.replace(LABELS, names=(HOSTILE, "car", "tree"))
    evaluated = dataclasses.replace(
        evaluation(named, failures={HOSTILE + "f": HOSTILE}, settings={HOSTILE: HOSTILE}), labels=labels
    )
    page = write(evaluated)
    raw = (tmp_path / "out" / "report.html").read_text()
    assert "<script>alert" not in raw and "<img src=x>" not in raw
    assert [tag for tag, _ in page.tags].count("script") == 4
    assert page.data["recordings"][0]["name"] == f"{HOSTILE} {HOSTILE}t"
    assert page.data["classes"][0] == HOSTILE
    assert not set("<>&") & set(page.scripts["data"])
    assert HOSTILE + "n" in page.text and HOSTILE + "f" in page.text


def test_figures_are_those_of_the_sums(write) -> None:
    page = write(evaluation(sequence("a"), sequence("b")))
    miou = 100 * (60 / 85 + 15 / 40 + 1) / 3
    for shown in (f"mean IoU {miou:.2f} %", "pixel accuracy 79.17 %", "flow consistency 94.00 %", "frames 40"):
        assert shown in page.text
    # Latencies of both bags: 10 to 29 ms each.
    assert "latency, median 19.5 ms" in page.text and "latency, p99 29.0 ms" in page.text
    assert "VC_8" not in page.text.partition("Over time")[0].partition("What the figures mean")[0]
    assert page.row("car")[1:] == ["16.67", "37.50"]
    assert page.row("tree")[1:] == ["16.67", "100.00"]
    assert page.row("a")[1:4] == ["20", f"{miou:.2f}", "94.00"]


def test_without_ground_truth_there_is_what_needs_none(write) -> None:
    page = write(evaluation(sequence(truth=False)))
    assert "without ground truth" in page.text
    assert "flow consistency 94.00 %" in page.text and "mean confidence 90.00 %" in page.text
    for absent in ("IoU", "accuracy", "Confusion", "wrong pixels", "truth: void"):
        assert absent not in page.text
    assert set(page.data["recordings"][0]["lines"][0]) == {"span", "x", "consistency", "confidence", "latency"}
    assert page.data["recordings"][0]["frames"][0]["truth"] is None


@pytest.mark.parametrize(
    ("figure", "difference", "low", "high", "shown", "mark"),
    [
        ("miou", 0.5, 0.25, 0.75, "+0.50 [+0.25, +0.75]", "better"),
        ("miou", -0.5, -0.75, -0.25, "−0.50 [−0.75, −0.25]", "worse"),  # noqa: RUF001
        ("miou", 0.5, -0.25, 1.25, "+0.50 [−0.25, +1.25]", ""),  # noqa: RUF001
        ("miou", 0.5, None, None, "+0.50", ""),
        ("uncertain", 0.5, 0.25, 0.75, "+0.50 [+0.25, +0.75]", "worse"),
        ("confidence", 0.5, 0.25, 0.75, "+0.50 [+0.25, +0.75]", ""),
    ],
)
def test_a_difference_is_marked_where_it_is_sure(
    write, figure: str, difference: float, low: float | None, high: float | None, shown: str, mark: str
) -> None:
    several = [sequence(model=model) for model in ("small", "large")]
    several = [
        dataclasses.replace(
            each,
            blocks=tuple(
                dataclasses.replace(
                    block, sums=dataclasses.replace(block.sums, means=block.sums.means | {"uncertain": (1.0, 50.0)})
                )
                for block in each.blocks
            ),
        )
        for each in several
    ]
    compared = Comparison("small", "large", figure, difference, low, high, "blocks of 10 s", 7)
    page = write(evaluation(*several, comparisons=(compared,)))
    assert shown in page.text
    assert ("paired over 7 blocks of 10 s" in page.text) == (low is not None)
    assert ("intervals need at least 5 blocks of 10 s; there are 7" in page.text) == (low is None)
    # Beside those that explain the marks.
    marks = [attributes["class"] for tag, attributes in page.tags if tag == "span" and "class" in attributes]
    assert [each for each in marks if each is not None and each.startswith("difference ")].count(
        f"difference {mark}"
    ) == 1 + (mark != "" and low is not None)


def test_the_confusion_matrix_has_the_shares_of_each_true_class(write) -> None:
    assert row_shares(np.array([[3, 1], [0, 0]])) == [[75.0, 25.0], [None, None]]
    assert write(evaluation()).data["confusions"] == [[[75.0, 25.0, 0.0], [25.0, 75.0, 0.0], [0.0, 0.0, 100.0]]]


def test_the_largest_confusions_come_by_pixels() -> None:
    first, second = largest_confusions(CONFUSION)
    assert (first["truth"], first["prediction"], first["of_class"]) == (0, 1, 25.0)
    assert (second["truth"], second["prediction"], second["of_class"]) == (1, 0, 25.0)
    assert first["of_all"] == pytest.approx(100 * 20 / 120)


class TestTimeline:
    def test_every_frame_is_a_point_where_there_are_few(self) -> None:
        line = thinned(sequence().frames, START_NS, 100)
        assert line["span"] == 1
        assert line["x"][:3] == [0.0, 0.1, 0.2]
        assert line["miou"][:2] == [70.0, 69.0] and line["consistency"][0] is None
        assert line["latency"][-1] == 29.0

    def test_of_many_frames_the_worst_are_kept(self) -> None:
        frames = [FrameScore(START_NS + n * STEP_NS, 90.0, 10.0, 95.0, 70.0) for n in range(1000)]
        frames[577] = FrameScore(START_NS + 577 * STEP_NS, 30.0, 500.0, 20.0, 10.0)
        line = thinned(frames, START_NS, 100)
        assert line["span"] == 10 and len(line["x"]) == 100 and line["x"][57] == 57.0
        for name, worst in (("miou", 10.0), ("consistency", 20.0), ("confidence", 30.0), ("latency", 500.0)):
            assert [place for place, value in enumerate(line[name]) if value == worst] == [57]

    def test_what_no_frame_has_is_no_line(self) -> None:
        assert set(thinned([FrameScore(START_NS, None, None)] * 3, START_NS, 100)) == {"span", "x"}
        assert thinned([], START_NS, 100) == {"span": 1, "x": []}

    def test_a_value_that_is_no_number_is_a_gap(self) -> None:
        frames = [FrameScore(START_NS, 90.0, 1.0), FrameScore(START_NS + 1, float("nan"), 1.0)]
        assert thinned(frames, START_NS, 100)["confidence"] == [90.0, None]

    def test_the_points_of_a_fleet_are_bounded(self) -> None:
        assert points_of_each(1) == 2000
        assert 600 * points_of_each(600) <= 200_000
        assert points_of_each(100_000) == 100


class TestPictures:
    def test_stamps_keep_their_nanoseconds(self, write) -> None:
        frames = write(evaluation()).data["recordings"][0]["frames"]
        assert [frame["stamp"] for frame in frames[:2]] == ["1700000000.123456789", "1700000000.523456789"]
        assert [frame["t"] for frame in frames] == [0.0, 0.4, 0.8, 1.2, 1.6]
        assert frames[1]["of"][0]["scores"]["mean IoU"] == 66.0

    def test_a_picture_of_several_networks_is_in_the_page_once(self, write) -> None:
        page = write(evaluation(sequence(model="small"), sequence(model="large")))
        # 5 frames: camera, truth, prediction and difference, the same for both.
        assert len(page.images) == len(set(page.images)) == 20
        assert sum(url.startswith("data:image/jpeg;base64,") for url in page.images) == 5

    def test_networks_may_have_kept_different_frames(self, write) -> None:
        small, large = sequence(model="small"), sequence(model="large", seed=1)
        small = dataclasses.replace(small, shots=small.shots[:2])
        large = dataclasses.replace(large, shots=large.shots[1:3])
        frames = write(evaluation(small, large)).data["recordings"][0]["frames"]
        shown = [[part["prediction"] is not None for part in frame["of"]] for frame in frames]
        assert shown == [[True, False], [True, True], [False, True]]
        assert all(part["scores"] for frame in frames for part in frame["of"])

    def test_beyond_the_budget_every_bag_keeps_its_worst(self, write) -> None:
        several = [sequence(f"bag {place}", seed=place, miou=70.0 + place) for place in range(4)]
        everything = write(evaluation(*several))
        assert "To keep this page small" not in everything.text
        budget = sum(map(len, everything.images)) * 2 // 5 + 100
        page = write(evaluation(*several), image_budget=budget)
        times = [[frame["t"] for frame in each["frames"]] for each in page.data["recordings"]]
        # Frames get worse with time.
        assert times == [[1.2, 1.6]] * 4
        assert sum(map(len, page.images)) <= budget
        assert "images of 8 of the 20 frames that were kept" in page.text

    def test_a_budget_of_nothing_leaves_the_figures(self, write) -> None:
        page = write(evaluation(), image_budget=0)
        assert page.images == [] and page.data["recordings"][0]["frames"] == []
        assert "images of 0 of the 5 frames" in page.text

    def test_the_worst_frames_come_first_one_of_each_second(self, write) -> None:
        page = write(evaluation())
        buttons = [attributes for tag, attributes in page.tags if attributes.get("class") == "thumbnail"]
        # Kept at 0, 0.4, 0.8, 1.2 and 1.6 s.
        assert [attributes["data-frame"] for attributes in buttons] == ["4", "2"]
        assert "54.0 % at 1.60 s" in page.text

    def test_a_flicker_map_leads_to_the_least_steady_frame(self, write) -> None:
        page = write(evaluation(sequence(flicker=picture(99, ".jpg"))))
        button = [attributes for _, attributes in page.tags if attributes.get("class") == "thumbnail"][-1]
        assert (button["data-recording"], button["data-frame"]) == ("0", "4")
        assert "consistency 94.0 %" in page.text


def test_what_was_lost_is_said(write) -> None:
    lost = ("the file is cut off: 3 frames lost",)
    page = write(
        evaluation(
            sequence("a", model="small", notes=(*lost, "slow"), complete=False),
            sequence("a", model="large", notes=lost, complete=False),
            sequence("b", model="small"),
            failures={"c": "c is no bag"},
        )
    )
    assert page.row("a incomplete")
    assert "the file is cut off: 3 frames lost" in page.words and "slow (small)" in page.words
    assert page.row("c") == ["c", "c is no bag"]
    assert "1 bag failed" in page.text and "Evaluation of 3 bags" in page.text
    # The second network has nothing of b.
    assert page.data["recordings"][1]["lines"][1] is None


@pytest.mark.parametrize(
    "odd",
    [
        evaluation(sequence(frames=0)),
        evaluation(sequence(frames=1)),
        evaluation(dataclasses.replace(sequence(), blocks=())),
        evaluation(dataclasses.replace(sequence(), frames=(FrameScore(START_NS, None, None),))),
        Evaluation(LABELS, ("small",), (), True, failures={"a": "a is no bag"}),
    ],
    ids=["no frame", "one frame", "no sums", "labels alone", "every bag failed"],
)
def test_an_evaluation_of_almost_nothing_has_a_page(write, odd: Evaluation) -> None:
    assert write(odd).data["models"] == ["small"]


def test_the_same_evaluation_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_report(evaluation(sequence("a"), sequence("b", seed=1)), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report.html").write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(evaluation(), tmp_path / "report.html")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "plotly" else find(name))
    with pytest.raises(ReportError, match="the report needs plotly: pip install plotly"):
        require_libraries()
    with pytest.raises(ReportError, match="pip install plotly"):
        write_report(evaluation(), tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_numbers_are_written_as_people_read_them() -> None:
    assert number(None) == "–"  # noqa: RUF001
    assert number(12345.0, 0) == "12,345"
    assert signed(-0.5) == "−0.50"  # noqa: RUF001

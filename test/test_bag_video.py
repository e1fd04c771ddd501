"""The overlay video shows every frame beside its labels, for as long as its stamps say, and is whole or not there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from stmem_ros import video_writer
from stmem_ros.bag.video import LARGEST_WIDTH, OverlayVideo, frame_rate
from stmem_ros.labels import LabelSet
from stmem_ros.video import TimedVideo, VideoError, legend

RATE = 10.0
STEP_NS = 100_000_000
START_NS = 1_700_000_000_000_000_000
CLASSES = LabelSet(("road", "car", "sky"), ((200, 40, 40), (40, 200, 40), (40, 40, 200)))
# Far enough apart to be told from each other after compression.
GREYS = [20, 70, 120, 170, 220]


WRITERS = ("pyav", "ffmpeg", "opencv")


def only(writer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let videos be written by this one; skips where it cannot."""
    if writer == "pyav":
        if video_writer._pyav_encoder() is None:
            pytest.skip("needs PyAV with an H.264 encoder")
        return
    # As where the package is not installed.
    monkeypatch.setitem(sys.modules, "av", None)
    if writer == "opencv":
        monkeypatch.setenv("PATH", "/nowhere")
    elif video_writer._ffmpeg_encoder(shutil.which("ffmpeg")) is None:
        pytest.skip("needs ffmpeg with an H.264 encoder")


@pytest.fixture(params=WRITERS)
def writer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the ways in which a video may be written."""
    only(request.param, monkeypatch)
    return str(request.param)


def grey(value: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def read(path: Path) -> list[np.ndarray]:
    """The video's frames as RGB."""
    video, frames = cv2.VideoCapture(str(path)), []
    while (found := video.read())[0]:
        frames.append(cv2.cvtColor(found[1], cv2.COLOR_BGR2RGB))
    video.release()
    return frames


def shown(path: Path) -> list[int]:
    """Which of GREYS every frame of the video is."""
    return [int(np.argmin([abs(frame[8:-8, 8:-8].mean() - value) for value in GREYS])) for frame in read(path)]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([0, 1, 2, 3, 4], [0, 1, 2, 3, 4], id="every frame once at the video's own rate"),
        pytest.param([0, 1, 4, 5, 6], [0, 1, 1, 1, 2, 3, 4], id="a frame stays until the next"),
        pytest.param([0, 1, 1.4, 3, 4], [0, 1, 2, 3, 4], id="jitter drops no frame"),
        pytest.param([0, 1, 201, 202, 203], [0] + [1] * 10 + [2, 3, 4], id="a long gap is shortened"),
        pytest.param([0, 1, -50, -49, -48], [0, 1, 2, 3, 4], id="stamps that go back count on"),
        pytest.param([5, 5, 5, 5, 5], [0, 1, 2, 3, 4], id="equal stamps"),
        pytest.param([0, 0.25, 0.5, 0.75, 1], [0, 2, 4], id="of more frames than the video has some stay"),
    ],
)
def test_a_picture_stays_as_long_as_the_stamps_say(
    tmp_path: Path, writer: str, steps: list[float], expected: list[int]
) -> None:
    with TimedVideo(tmp_path / "out.mp4", RATE, longest=1.0) as video:
        for value, step in zip(GREYS, steps, strict=True):
            video.add(grey(value), START_NS + round(step * STEP_NS))
    assert shown(tmp_path / "out.mp4") == expected


def test_the_overlay_is_beside_the_camera_in_the_classes_colours(tmp_path: Path) -> None:
    image = grey(100, 120, 160)
    labels = np.zeros((120, 160), np.uint8)
    labels[:, 80:] = 2
    with OverlayVideo(tmp_path / "out.mp4", CLASSES, RATE, alpha=0.5) as video:
        for number in range(3):
            video.add(image, labels, START_NS + number * STEP_NS)
    frames = read(tmp_path / "out.mp4")
    assert len(frames) == 3
    frame = frames[-1]
    assert frame.shape[1] == 320 and frame.shape[0] > 120
    np.testing.assert_allclose(frame[60, 80], (100, 100, 100), atol=10)
    np.testing.assert_allclose(frame[60, 160 + 40], (150, 70, 70), atol=14)
    np.testing.assert_allclose(frame[60, 160 + 120], (70, 70, 150), atol=14)
    assert frame[120:].mean() > 180, "the legend is white below the pictures"


def test_the_legend_can_be_left_out(tmp_path: Path) -> None:
    with OverlayVideo(tmp_path / "out.mp4", CLASSES, RATE, with_legend=False) as video:
        video.add(grey(9), np.zeros((48, 64), np.uint8), START_NS)
    assert [frame.shape for frame in read(tmp_path / "out.mp4")] == [(48, 128, 3)]


def test_the_legend_has_every_class_in_its_colour() -> None:
    picture = legend(CLASSES, 150)
    assert picture.shape[1] == 150
    for color in CLASSES.palette:
        assert (picture == color).all(axis=2).sum() > 200


def test_images_wider_than_players_like_are_shrunk_and_odd_sizes_lose_nothing(tmp_path: Path) -> None:
    for width, expected in ((1201, (480, LARGEST_WIDTH)), (51, (38, 102))):
        labels = np.zeros((37 if width == 51 else 600, width), np.uint8)
        with OverlayVideo(tmp_path / "out.mp4", CLASSES, RATE, with_legend=False) as video:
            video.add(grey(50, *labels.shape), labels, START_NS)
        assert read(tmp_path / "out.mp4")[0].shape[:2] == expected


def test_images_that_change_size_are_fitted_without_distortion(tmp_path: Path, writer: str) -> None:
    with TimedVideo(tmp_path / "out.mp4", RATE) as video:
        video.add(grey(220, 48, 64), START_NS)
        video.add(grey(220, 96, 32), START_NS + STEP_NS)
    narrow = read(tmp_path / "out.mp4")[1]
    assert narrow.shape == (48, 64, 3)
    assert narrow[24, 32, 0] > 200 and narrow[24, 4, 0] < 30 and narrow[24, 60, 0] < 30


def test_a_failure_leaves_the_video_that_was_there(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"yesterday's")

    def fail() -> None:
        with TimedVideo(path, RATE) as video:
            video.add(grey(20), START_NS)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"yesterday's"
    assert list(tmp_path.iterdir()) == [path]


def test_no_frame_no_file(tmp_path: Path) -> None:
    with OverlayVideo(tmp_path / "out.mp4", CLASSES, RATE):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_line_and_no_file(tmp_path: Path, writer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    only(writer, monkeypatch)
    code = """
import resource, sys
from pathlib import Path
import numpy as np
if sys.argv[2] != "pyav":
    sys.modules["av"] = None
from stmem_ros.video import TimedVideo, VideoError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
noise = np.random.default_rng(0).integers(0, 256, (30, 96, 128, 3), np.uint8)
try:
    with TimedVideo(Path(sys.argv[1]), 10) as video:
        for number, picture in enumerate(noise):
            video.add(picture, number * 10**8)
except VideoError as error:
    print(error)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "out.mp4"), writer]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    assert "out.mp4: only a part of the video could be written (" in done.stdout
    assert "see whether the disk is full" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_codec_is_one_that_browsers_play_or_a_line_says_so(tmp_path: Path, writer: str) -> None:
    with TimedVideo(tmp_path / "out.mp4", RATE) as video:
        for number, value in enumerate(GREYS):
            video.add(grey(value), START_NS + number * STEP_NS)
    capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    codec = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little")
    if writer == "opencv":
        assert codec == b"FMP4"
        assert video.note.startswith("out.mp4 is MPEG-4 Part 2, which VLC and mpv play and browsers do not")
        assert "pip install av" in video.note
    else:
        assert codec == b"h264"
        assert video.note == ""
        # A browser can begin to play before it has the whole file.
        assert (tmp_path / "out.mp4").read_bytes().find(b"moov") < 100


def test_class_colours_are_those_of_the_picture(tmp_path: Path, writer: str) -> None:
    with TimedVideo(tmp_path / "out.mp4", RATE) as video:
        for number, color in enumerate(CLASSES.palette):
            video.add(np.full((64, 64, 3), color, np.uint8), START_NS + number * STEP_NS)
    for frame, color in zip(read(tmp_path / "out.mp4"), CLASSES.palette, strict=True):
        np.testing.assert_allclose(frame[32, 32], color, atol=8)


def test_a_name_that_is_no_mp4_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"out\.avi: a video's name must end in \.mp4"):
        OverlayVideo(tmp_path / "out.avi", CLASSES, RATE)


@pytest.mark.parametrize("rate", [0.3, 14.9253, 29.97, 119.88012, 1000.0])
def test_any_rate_of_a_camera_can_be_written(tmp_path: Path, writer: str, rate: float) -> None:
    with TimedVideo(tmp_path / "out.mp4", rate) as video:
        for number in range(3):
            video.add(grey(GREYS[number]), START_NS + round(number * 1e9 / rate))
    assert shown(tmp_path / "out.mp4") == [0, 1, 2]
    assert cv2.VideoCapture(str(tmp_path / "out.mp4")).get(cv2.CAP_PROP_FPS) == pytest.approx(rate, rel=1e-3)


@pytest.mark.parametrize(
    ("stamps", "rate"),
    [([0, STEP_NS, 2 * STEP_NS, 9 * STEP_NS], 10.0), ([3 * STEP_NS, 0, STEP_NS, 2 * STEP_NS], 10.0), ([7], 15.0)],
)
def test_the_rate_is_that_of_most_frames(stamps: list[int], rate: float) -> None:
    assert frame_rate(stamps) == pytest.approx(rate)

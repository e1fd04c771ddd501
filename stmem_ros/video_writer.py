"""Writes pictures as the frames of an `.mp4`: H.264 by PyAV or ffmpeg, else MPEG-4 Part 2 by OpenCV."""

from __future__ import annotations

import contextlib
import functools
import shutil
import subprocess
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

H264, MPEG4 = "H.264", "MPEG-4 Part 2"
# The same codec, of which a build of FFmpeg has one, both or none.
ENCODERS = ("libx264", "libopenh264")
# The demo writes beside the network: this preset takes the time that MPEG-4 takes, the next one twice that.
OPTIONS = {"libx264": {"preset": "ultrafast", "crf": "23"}}
# What the colours of a picture are converted by, as players must know.
COLORS = {"colorspace": 5, "color_primaries": 5, "color_trc": 6, "color_range": 1}
OPENCV_CODEC = "mp4v"


class VideoWriter(Protocol):
    """Every method raises OSError where the file cannot be written. `codec` is H264 or MPEG4."""

    codec: str

    def write(self, bgr: NDArray[np.uint8]) -> None:
        """The next frame `(H, W, 3)`, of the video's size."""
        ...

    def close(self) -> None:
        """The file is whole after that."""
        ...

    def abort(self) -> None:
        """Let go of the file, whatever is in it. Raises nothing."""
        ...


def open_writer(path: Path, rate: float, size: tuple[int, int]) -> VideoWriter:
    """`rate` in frames a second, `size` `(width, height)`, both even. Raises OSError."""
    encoder = _pyav_encoder()
    if encoder:
        return _PyAvWriter(path, rate, size, encoder)
    encoder = _ffmpeg_encoder(shutil.which("ffmpeg"))
    if encoder:
        return _FfmpegWriter(path, rate, size, encoder)
    return _OpenCvWriter(path, rate, size)


def _pyav_encoder() -> str | None:
    try:
        import av
    except ImportError:
        return None
    return next((name for name in ENCODERS if name in av.codecs_available), None)


@functools.cache
def _ffmpeg_encoder(program: str | None) -> str | None:
    if program is None:
        return None
    try:
        listed = subprocess.run([program, "-hide_banner", "-encoders"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return next((name for name in ENCODERS if f" {name} " in listed.stdout), None)


class _PyAvWriter:
    codec = H264

    def __init__(self, path: Path, rate: float, size: tuple[int, int], encoder: str) -> None:
        import av

        self._av = av
        self._count = 0
        # The index lies at the front, so that a browser can begin before it has the whole file.
        self._container = av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
        options = OPTIONS.get(encoder, {})
        self._stream: Any = self._container.add_stream(encoder, rate=Fraction(str(rate)), options=options)
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = "yuv420p"
        for name, value in COLORS.items():
            setattr(self._stream.codec_context, name, value)

    def write(self, bgr: NDArray[np.uint8]) -> None:
        frame = self._av.VideoFrame.from_ndarray(bgr, format="bgr24")
        frame.pts, self._count = self._count, self._count + 1
        frame.time_base = 1 / self._stream.codec_context.framerate
        self._mux(frame)

    def close(self) -> None:
        self._mux(None)
        try:
            self._container.close()
        except self._av.FFmpegError as error:
            raise _os_error(error) from error

    def abort(self) -> None:
        with contextlib.suppress(self._av.FFmpegError, OSError):
            self._container.close()

    def _mux(self, frame: Any) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except self._av.FFmpegError as error:
            raise _os_error(error) from error


def _os_error(error: Any) -> OSError:
    return OSError(error.errno, error.strerror)


class _FfmpegWriter:
    codec = H264

    def __init__(self, path: Path, rate: float, size: tuple[int, int], encoder: str) -> None:
        width, height = size
        options = [word for name, value in OPTIONS.get(encoder, {}).items() for word in (f"-{name}", value)]
        colors = [word for name, value in COLORS.items() for word in (f"-{name}", str(value))]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        # fmt: off
        command = [
            "ffmpeg", "-hide_banner", "-loglevel", "error", "-y",
            "-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{width}x{height}", "-r", str(rate), "-i", "-",
            "-c:v", encoder, *options, "-pix_fmt", "yuv420p", *colors,
            "-movflags", "+faststart", "-f", "mp4", str(path),
        ]
        # fmt: on
        # A Ctrl-C is for us: it must not end the file before we have decided what becomes of it.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._said, start_new_session=True
        )

    def write(self, bgr: NDArray[np.uint8]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(bgr).data)
        except OSError:
            self._fail()

    def close(self) -> None:
        self._end()
        if self._process.returncode:
            self._fail()
        self._said.close()

    def abort(self) -> None:
        self._process.kill()
        self._end()
        self._said.close()

    def _end(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()

    def _fail(self) -> None:
        """Raises OSError with ffmpeg's own words."""
        status = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").split("\n")
        raise OSError(f"ffmpeg ended with {status}" + (f": {lines[0].strip()}" if lines[0].strip() else ""))


class _OpenCvWriter:
    codec = MPEG4

    def __init__(self, path: Path, rate: float, size: tuple[int, int]) -> None:
        self._path, self._written = path, 0
        self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*OPENCV_CODEC), rate, size)
        if not self._writer.isOpened():
            raise OSError(
                f"this OpenCV cannot write {size[0]}x{size[1]} pixels as {OPENCV_CODEC}; the one of pip install "
                "opencv-python-headless can, and pip install av writes H.264"
            )

    def write(self, bgr: NDArray[np.uint8]) -> None:
        self._writer.write(bgr)
        self._written += 1

    def close(self) -> None:
        """OpenCV drops what it cannot write without a word, so that the file must be looked at."""
        self._writer.release()
        video = cv2.VideoCapture(str(self._path))
        try:
            found = round(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
            video.set(cv2.CAP_PROP_POS_FRAMES, self._written - 1)
            whole = found == self._written and video.read()[0]
        finally:
            video.release()
        if not whole:
            raise OSError(f"{found} of {self._written} frames are there")

    def abort(self) -> None:
        self._writer.release()

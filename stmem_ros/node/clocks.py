"""Whether a stamp can be of the clock that it is compared with: latencies across two clocks are no latencies."""

from __future__ import annotations

import dataclasses
import time

from rclpy.clock import ROSClock

SECOND_NS = 1_000_000_000
# Clocks of two computers differ by less once they are synchronised, and some drivers stamp the exposure's end.
MAX_AHEAD_NS = SECOND_NS // 10
# /clock may come ten times a second, and later than an image that it has not reached yet.
MAX_AHEAD_SIMULATED_NS = SECOND_NS
# No image is older when it arrives; also the largest latency that a threshold can be set to.
MAX_AGE_NS = 60 * SECOND_NS
# Stamps up to here count from a start, of a computer or of a simulation: nobody's calendar says 1980.
MAX_UPTIME_NS = 10 * 365 * 86400 * SECOND_NS
SYNCHRONISE = "synchronise the two computers' clocks (chrony, NTP or PTP)"
UNITS = (("y", 365 * 86400), ("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


@dataclasses.dataclass(frozen=True)
class Reading:
    """The clocks at one moment, in nanoseconds: `now` of the node, `system` of the calendar, `uptime` since boot.

    `simulated` is whether `now` comes from /clock (`use_sim_time`).
    """

    now: int
    simulated: bool
    system: int
    uptime: int

    @classmethod
    def of(cls, clock: ROSClock) -> Reading:
        simulated = clock.ros_time_is_active
        system = time.time_ns()
        return cls(clock.now().nanoseconds if simulated else system, simulated, system, time.monotonic_ns())

    @classmethod
    def of_system(cls) -> Reading:
        system = time.time_ns()
        return cls(system, False, system, time.monotonic_ns())


@dataclasses.dataclass(frozen=True)
class ClockFault:
    """Why a stamp is not compared with the clock: a short word for it, what is wrong and what to do."""

    kind: str
    text: str


def fault_of(stamp: int, clocks: Reading) -> ClockFault | None:
    """What is wrong with a stamp in nanoseconds that comes with an image right now; None if it can be of `clocks.now`.

    `text` completes "images on TOPIC ...".
    """
    if stamp == 0:
        return ClockFault(
            "zero",
            "have a stamp of zero: gaps are not seen, and nobody can pair labels with images; let the camera driver "
            "set the stamp",
        )
    if clocks.simulated and clocks.now == 0:
        return ClockFault(
            "no /clock",
            "cannot be timed: use_sim_time is true, and nothing came on /clock yet; start what publishes it (a "
            "simulator, or `ros2 bag play --clock`), or start this node with use_sim_time false",
        )
    age = clocks.now - stamp
    if age < -(MAX_AHEAD_SIMULATED_NS if clocks.simulated else MAX_AHEAD_NS):
        return ClockFault(
            "ahead", f"are stamped {_duration(-age)} ahead of {_name(clocks)}: {_why_ahead(stamp, clocks)}"
        )
    if age > MAX_AGE_NS:
        return ClockFault(
            "behind", f"are stamped {_duration(age)} behind {_name(clocks)}: {_why_behind(stamp, clocks)}"
        )
    return None


def latency_of(stamp: int, clocks: Reading) -> float | None:
    """Seconds from a stamp in nanoseconds to now; None if that is of two clocks, and cannot be."""
    if stamp > clocks.now or fault_of(stamp, clocks) is not None:
        return None
    return (clocks.now - stamp) * 1e-9


def _name(clocks: Reading) -> str:
    return "this node's clock, which is /clock (use_sim_time is true)" if clocks.simulated else "this computer's clock"


def _why_ahead(stamp: int, clocks: Reading) -> str:
    if clocks.simulated and abs(stamp - clocks.system) < MAX_AGE_NS:
        return (
            "they are of the system's clock; start the camera with use_sim_time too, or this node with use_sim_time "
            "false"
        )
    if clocks.simulated:
        return "/clock and the images are of two runs or two sources; let one simulator or bag give both"
    return f"the camera's clock is another one; {SYNCHRONISE}, or set the time zone right where the driver adds it"


def _why_behind(stamp: int, clocks: Reading) -> str:
    if clocks.simulated:
        return "/clock and the images are of two runs or two sources; let one simulator or bag give both"
    if abs(stamp - clocks.uptime) < MAX_AGE_NS:
        return "they count from this computer's start; let the camera driver stamp by the system's clock"
    if 0 < stamp < MAX_UPTIME_NS:
        return (
            "they count from a start; if a simulator or `ros2 bag play --clock` sends them, start this node with "
            "use_sim_time true, else let the camera driver stamp by the system's clock"
        )
    return (
        "they are of a recording, or the camera's clock is another one; play a bag with `--clock` and start this node "
        f"with use_sim_time true, or {SYNCHRONISE}"
    )


def _duration(nanoseconds: int) -> str:
    """Two units at most: `56 y 12 d`, `1 h`, `0.3 s`."""
    seconds = nanoseconds / SECOND_NS
    if seconds < 10:
        return f"{seconds:.1f} s"
    left, parts = round(seconds), []
    for unit, size in UNITS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])

"""Fast DDS settings under which large best-effort images arrive: measured at 960x720, its defaults lose most of them.

Every process that shall hear another on a different host needs the same setting: measured across two network
namespaces, a process with it and one without do not find each other.
"""

from __future__ import annotations

from collections.abc import Mapping

LARGE_DATA = "LARGE_DATA?max_msg_size=4MB&sockets_size=4MB&non_blocking=true&tcp_negotiation_timeout=50"
# Their Fast DDS knows the word but no options.
WITHOUT_OPTIONS = ("humble", "iron")
# Where one of these is set the user has chosen transports herself.
USER_CHOICES = (
    "FASTDDS_BUILTIN_TRANSPORTS",
    "FASTDDS_DEFAULT_PROFILES_FILE",
    "FASTRTPS_DEFAULT_PROFILES_FILE",
)


def large_data_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to a process's environment; empty for another middleware or where the user chose transports."""
    if "fastrtps" not in environment.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp"):
        return {}
    if any(name in environment for name in USER_CHOICES):
        return {}
    without = environment.get("ROS_DISTRO") in WITHOUT_OPTIONS
    return {"FASTDDS_BUILTIN_TRANSPORTS": LARGE_DATA.partition("?")[0] if without else LARGE_DATA}

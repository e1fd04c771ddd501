"""Fast DDS settings under which large best-effort images arrive: measured at 960x720, its defaults lose most of them.

The settings are in config/large_data.xml. Only the process that publishes needs them, and every other process still
finds it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

# Fast DDS 2 (up to Jazzy) and 3 read the file's path from one each.
PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
# If one of these is set the user has chosen transports herself.
USER_CHOICES = ("FASTDDS_BUILTIN_TRANSPORTS", *PROFILES)


def large_data_environment(environment: Mapping[str, str], profiles: str) -> dict[str, str]:
    """What to add to the environment of a process that publishes images; `profiles` is the path of large_data.xml.

    Raises ValueError if the settings would have no effect, or would replace the user's own.
    """
    middleware = environment.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
    if "fastrtps" not in middleware:
        raise ValueError(f"RMW_IMPLEMENTATION is {middleware}, and the settings are Fast DDS's")
    for name in USER_CHOICES:
        if environment.get(name):
            raise ValueError(
                f"{name} is set to {environment[name]}, which decides the transports; unset it, or copy the transport "
                f"of {profiles} into your own profile"
            )
    if not os.path.isfile(profiles):
        raise ValueError(f"{profiles} does not exist; build the package again")
    return dict.fromkeys(PROFILES, profiles)

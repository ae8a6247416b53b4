# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a build of torch and the NVIDIA driver of a host agree."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

# The oldest driver branch for each major version of CUDA: within one, minor versions are compatible.
# https://docs.nvidia.com/deploy/cuda-compatibility/
_OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}

_MODULE = re.compile(r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)")


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver that is loaded, and how many GPUs it has."""

    version: str
    gpus: int


def loaded_driver(system: str = "/") -> Driver | None:
    """Return the driver that is loaded, or None.

    :param system: The root of the filesystem.
    """
    version = _read(system, "sys/module/nvidia/version").strip()
    if not version:  # an old one tells its version only here
        found = _MODULE.search(_read(system, "proc/driver/nvidia/version"))
        if found is None:
            return None
        version = found.group(1)
    try:
        gpus = os.listdir(os.path.join(system, "proc/driver/nvidia/gpus"))
    except OSError:
        gpus = []
    return Driver(version, len(gpus))


def _read(system: str, path: str) -> str:
    try:
        with open(os.path.join(system, path), encoding="ascii", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def newest_cuda(branch: int) -> int:
    """Return the newest major version of CUDA that a branch of the driver serves."""
    return max((cuda for cuda, oldest in _OLDEST_DRIVER.items() if branch >= oldest), default=min(_OLDEST_DRIVER))


def driver_problem(cuda: str | None, driver: Driver | None) -> str | None:
    """Return why a torch that was built for a version of CUDA cannot work with a driver, or None.

    Without a CUDA build or without a driver there is nothing to disagree.
    """
    if cuda is None or driver is None:
        return None
    wanted = _OLDEST_DRIVER.get(int(cuda.partition(".")[0]))
    found = re.match(r"\d+", driver.version)
    if wanted is None or found is None or int(found[0]) >= wanted:
        return None
    return (
        f"torch is built for CUDA {cuda}: expected NVIDIA driver {wanted} or later, found {driver.version}; "
        "lock a torch for an older CUDA, or update the driver"
    )

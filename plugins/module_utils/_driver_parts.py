# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which parts of a driver a host needs, which it lacks, and which it has too many."""

from __future__ import annotations

import fnmatch

from ._driver_offers import upstream_of
from ._driver_packages import BROKEN
from ._driver_types import Host, Wanted

# What comes and goes without the driver.
SWITCHES = ("container_toolkit", "dcgm", "cuda_toolkit")

_SERVICES = {
    "persistenced": "nvidia-persistenced",
    "fabricmanager": "nvidia-fabricmanager",
    "imex": "nvidia-imex",
    "dcgm": "nvidia-dcgm",
}


def parts_of(wanted: Wanted, host: Host, modules: str) -> list[str]:
    """Return the parts that this hardware and these wishes ask for."""
    switches = host.hardware.nvswitch is not None
    nvlink5 = host.hardware.nvswitch == "nvlink5"
    asked = {
        "driver": True,
        "tools": True,
        modules: True,
        "persistenced": wanted.persistenced,
        "fabricmanager": switches,
        "nscq": switches,
        "nvsdm": nvlink5,
        "nvlsm": nvlink5,
        "imex": host.hardware.imex,
        "container_toolkit": wanted.container_toolkit,
        "dcgm": wanted.dcgm,
        "cuda_toolkit": bool(wanted.cuda_toolkit),
    }
    return [part for part, needed in asked.items() if needed and part in host.platform.parts]


def services_of(parts: list[str]) -> tuple[str, ...]:
    return tuple(_SERVICES[part] for part in parts if part in _SERVICES)


def missing_parts(wanted: Wanted, host: Host, parts: list[str], driver: str) -> list[str]:
    """Return the parts that are not installed in this version."""
    missing = []
    for part in parts:
        kind = host.platform.parts[part]
        names = host.platform.part(part, driver, wanted.cuda_toolkit)
        versions = [host.packages.versions.get(name, BROKEN) for name in names]
        there = any(version and (not kind.matched or upstream_of(version) == driver) for version in versions)
        if not there and not kind.optional:
            missing.append(part)
    return missing


def surplus(host: Host, parts: list[str], driver: str) -> list[str]:
    """Return what a switch brought that is off now."""
    recorded = list(host.record.packages) if host.record else []
    off = [part for part in SWITCHES if part not in parts]
    return [
        name
        for part in off
        for pattern in host.platform.part(part, driver, "*")
        for name in fnmatch.filter(recorded, pattern)
    ]

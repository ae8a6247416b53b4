# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GPU generations by PCI device id, and which kernel modules a generation can use.

The ids are those of the public PCI id list: NVIDIA gives ranges to chips. An id above all known ones is a newer GPU.
"""

from __future__ import annotations

from collections.abc import Iterable

from ._errors import DriverError

OLDER = "Kepler or older"
NEWER = "newer than Blackwell"

# First id, last id, generation.
_RANGES = (
    (0x1340, 0x14FF, "Maxwell"),
    (0x15F0, 0x15FF, "Pascal"),
    (0x1600, 0x17FF, "Maxwell"),
    (0x1B00, 0x1D7F, "Pascal"),
    (0x1D80, 0x1DFF, "Volta"),
    (0x1E00, 0x1FFF, "Turing"),
    (0x2000, 0x20FF, "Ampere"),
    (0x2180, 0x21FF, "Turing"),
    (0x2200, 0x22FF, "Ampere"),
    (0x2300, 0x233F, "Hopper"),
    (0x2340, 0x237F, "Grace Hopper"),
    (0x2400, 0x25FF, "Ampere"),
    (0x2600, 0x28FF, "Ada"),
    (0x2900, 0x2FFF, "Blackwell"),
    (0x3180, 0x31FF, "Blackwell"),
)

# Datacenter chips of Blackwell: with a Grace CPU their NVLink domain spans hosts.
_MULTI_NODE = ((0x2900, 0x29FF), (0x3180, 0x31FF))

_PROPRIETARY_ONLY = ("Maxwell", "Pascal", "Volta")
_OPEN_ONLY = ("Grace Hopper", "Blackwell", NEWER)

# The last branch with modules for the generations before Turing, and the last one with proprietary modules at all.
LAST_BRANCH_BEFORE_TURING = 580
LAST_PROPRIETARY_BRANCH = 615


def generation_of(device: int) -> str:
    """Return the generation of the GPU with a PCI device id."""
    for first, last, name in _RANGES:
        if first <= device <= last:
            return name
    return OLDER if device < _RANGES[0][0] else NEWER


def spans_hosts(device: int, machine: str) -> bool:
    """Whether the NVLink domain of this GPU spans hosts, so that it needs the IMEX service."""
    return machine == "aarch64" and any(first <= device <= last for first, last in _MULTI_NODE)


def modules_for(generations: Iterable[str], wanted: str) -> str:
    """Return the flavour of kernel modules, ``open`` or ``proprietary``, for a host with these GPUs.

    :param wanted: ``auto``, ``open`` or ``proprietary``.
    :raises DriverError: When no flavour, or not the wanted one, serves all of them.
    """
    names = sorted(set(generations))
    if OLDER in names:
        raise DriverError(
            "a GPU of this host is Kepler or older, and no driver that this role installs supports it; "
            "leave the host out, or set cuda_driver_enabled to false for it"
        )
    proprietary = [name for name in names if name in _PROPRIETARY_ONLY]
    need_open = [name for name in names if name in _OPEN_ONLY]
    if proprietary and need_open:
        raise DriverError(
            f"GPUs of this host need different kernel modules: {', '.join(proprietary)} proprietary ones, "
            f"{', '.join(need_open)} open ones; remove one kind"
        )
    if wanted == "open" and proprietary:
        raise DriverError(f"modules: {', '.join(proprietary)} has no open kernel modules; use auto or proprietary")
    if wanted == "proprietary" and need_open:
        raise DriverError(f"modules: {', '.join(need_open)} has no proprietary kernel modules; use auto or open")
    if wanted != "auto":
        return wanted
    return "proprietary" if proprietary else "open"


def branch_problem(generations: Iterable[str], modules: str, branch: int) -> str | None:
    """Return why GPUs of these generations cannot use a driver branch, or None."""
    old = sorted({name for name in generations if name in _PROPRIETARY_ONLY})
    if old and branch > LAST_BRANCH_BEFORE_TURING:
        return f"{LAST_BRANCH_BEFORE_TURING} is the last branch for {', '.join(old)}, found {branch}"
    if modules == "proprietary" and branch > LAST_PROPRIETARY_BRANCH:
        return f"{LAST_PROPRIETARY_BRANCH} is the last branch with proprietary kernel modules, found {branch}"
    return None

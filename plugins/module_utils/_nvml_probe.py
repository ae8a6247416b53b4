# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Asking the driver itself whether it works, through its library and with the standard library alone."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass

LIBRARY = "libnvidia-ml.so.1"
_VERSION_SIZE = 80

# Where the library is when no package of the host has brought it: with the driver container of the GPU Operator, and on
# NixOS.
_ELSEWHERE = (
    *(
        f"/run/nvidia/driver/usr/{directory}"
        for directory in ("lib64", "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu")
    ),
    "/run/opengl-driver/lib",
)
LIBRARIES = (LIBRARY, *(f"{directory}/{LIBRARY}" for directory in _ELSEWHERE))


@dataclass(frozen=True)
class Nvml:
    """The driver's version as NVML tells it, or the reason why it tells none.

    ``elsewhere`` is the library that answered where it is not one that the system knows: a container's, for example.
    """

    version: str | None
    reason: str | None
    elsewhere: str | None = None


def probe(libraries: Sequence[str] = LIBRARIES) -> Nvml:
    """Load NVML, start it and ask for the driver's version.

    NVML answers only when the kernel module is loaded and has the library's own version.

    :param libraries: Where the library may be; the first is the system's.
    """
    answers = (_ask(library) for library in libraries)
    usual = next(answers)
    if usual.version:
        return usual
    return next((answer for answer in answers if answer.version), usual)


def _ask(library: str) -> Nvml:
    try:
        nvml = ctypes.CDLL(library)
    except OSError:
        return Nvml(None, f"{library} is not installed")
    try:
        status = nvml.nvmlInit_v2()
        if status:
            return Nvml(None, _describe(nvml, status))
        try:
            buffer = ctypes.create_string_buffer(_VERSION_SIZE)
            status = nvml.nvmlSystemGetDriverVersion(buffer, ctypes.c_uint(_VERSION_SIZE))
            if status:
                return Nvml(None, _describe(nvml, status))
            return Nvml(buffer.value.decode("ascii", "replace"), None, library if os.path.isabs(library) else None)
        finally:
            nvml.nvmlShutdown()
    except AttributeError as error:
        return Nvml(None, f"{library} is not NVML: {error}")


def _describe(nvml: ctypes.CDLL, status: int) -> str:
    nvml.nvmlErrorString.restype = ctypes.c_char_p
    text: bytes = nvml.nvmlErrorString(status) or b"unknown error"
    return f"NVML error {status}: {text.decode('ascii', 'replace')}"

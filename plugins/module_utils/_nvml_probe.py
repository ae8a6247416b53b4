# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Asking the driver itself whether it works, through its library and with the standard library alone."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

LIBRARY = "libnvidia-ml.so.1"
_VERSION_SIZE = 80


@dataclass(frozen=True)
class Nvml:
    """The driver's version as NVML tells it, or the reason why it tells none."""

    version: str | None
    reason: str | None


def probe(library: str = LIBRARY) -> Nvml:
    """Load NVML, start it and ask for the driver's version.

    NVML answers only when the kernel module is loaded and has the library's own version.
    """
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
            return Nvml(buffer.value.decode("ascii", "replace"), None)
        finally:
            nvml.nvmlShutdown()
    except AttributeError as error:
        return Nvml(None, f"{library} is not NVML: {error}")


def _describe(nvml: ctypes.CDLL, status: int) -> str:
    nvml.nvmlErrorString.restype = ctypes.c_char_p
    text: bytes = nvml.nvmlErrorString(status) or b"unknown error"
    return f"NVML error {status}: {text.decode('ascii', 'replace')}"

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""NVML, asked through nvidia-ml-py: one device's answers, and what its errors mean.

Source of functions and error codes: NVIDIA's NVML API reference.
"""

from __future__ import annotations

import glob
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ._trust import require_trusted

# NVML's error codes.
_NO_PERMISSION = 4
_GPU_IS_LOST = 15
_RESET_REQUIRED = 16
# It has no such thing, or the driver is too old to tell.
_UNSUPPORTED = {2, 3, 6, 13, 21, 22, 25, 26}

_PROBLEMS = {
    _NO_PERMISSION: ("no_permission", "this account may not use the GPUs; run the task with privileges"),
    9: ("driver_not_loaded", "the kernel module nvidia is not loaded; load it, or install the driver"),
    12: ("library_missing", "libnvidia-ml.so.1 is not found; install the driver"),
    _GPU_IS_LOST: ("gpu_lost", "it has fallen off the bus; reboot the host, and look at its power and seating"),
    _RESET_REQUIRED: ("reset_required", "it needs a reset; reboot the host"),
    18: (
        "version_mismatch",
        "the loaded kernel module and libnvidia-ml.so.1 differ, as after an upgrade; reboot the host",
    ),
}


def load_binding(venv: str | None) -> ModuleType | None:
    """Return nvidia-ml-py's one module, which needs nothing else of its environment; None without a recent one.

    :param venv: The environment that has it, made with whichever Python; None for the one of this Python.
    :raises InvalidInput: When another account could have put it there: it would run with our rights.
    """
    places = None if venv is None else glob.glob(os.path.join(glob.escape(venv), "lib", "python3*", "site-packages"))
    spec = importlib.machinery.PathFinder.find_spec("pynvml", places)
    if spec is None or spec.loader is None or spec.origin is None:
        return None
    if venv is not None:  # this Python's own environment is running already
        require_trusted(spec.origin)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.dont_write_bytecode = True  # nothing is changed on a host by looking at it
    spec.loader.exec_module(module)
    return module if hasattr(module, "nvmlDeviceGetTemperatureV") else None


@dataclass(frozen=True)
class Problem:
    """What is wrong with a host's GPUs, or with one of them.

    ``reason`` is one of a documented set of words.
    """

    reason: str
    message: str
    gpu: int | None = None


def problem_of(error: Any, gpu: int | None = None, function: str | None = None) -> Problem:
    """Return what one of NVML's errors means."""
    reason, message = _PROBLEMS.get(error.value, ("nvml_error", f"NVML error {error.value}, {error}"))
    return Problem(reason, f"{function}: {message}" if function else message, gpu)


class Device:
    """A GPU, or a MIG device of one, that can be asked.

    :param problems: Where answers go that are neither a value nor that there is none.
    :raises NVMLError: When there is no way to ask it.
    """

    def __init__(self, nvml: ModuleType, index: int, problems: list[Problem], handle: Any = None) -> None:
        self.nvml = nvml
        self.index = index
        self._problems = problems
        self._handle = nvml.nvmlDeviceGetHandleByIndex(index) if handle is None else handle

    def ask(self, function: str, *arguments: Any) -> Any:
        """Call one of NVML's functions; return None for what the GPU or its driver does not support.

        :raises NVMLError: When the GPU can tell nothing any more.
        """
        try:
            return getattr(self.nvml, function)(self._handle, *arguments)
        except self.nvml.NVMLError as error:
            if error.value in (_GPU_IS_LOST, _RESET_REQUIRED):
                raise
            if error.value not in _UNSUPPORTED:
                self._problems.append(problem_of(error, self.index, function))
            return None

    def mig_devices(self) -> Iterator[tuple[int, Device]]:
        """Yield the MIG devices of a GPU with their indexes, which may have gaps."""
        for index in range(self.ask("nvmlDeviceGetMaxMigDeviceCount") or 0):
            handle = self.ask("nvmlDeviceGetMigDeviceHandleByIndex", index)
            if handle is not None:
                yield index, Device(self.nvml, self.index, self._problems, handle)

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The facts of a host's GPUs: versions, every GPU's state and values, and what is wrong with them.

Nothing here raises for the state of a host: whatever is missing or broken is one of the facts.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from types import ModuleType
from typing import Any, Callable

from ._cuda import loaded_driver
from ._errors import InvalidInput
from ._nvml import Device, Problem, load_binding, problem_of

_MIB = 1 << 20

_THROTTLE_REASONS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
    0x200: "board_limit",
    0x400: "reliability",
}
_FABRIC_STATES = {0: "not_supported", 1: "not_started", 2: "in_progress", 3: "completed"}


def gather_facts(venv: str | None = None, expected_gpus: int | None = None) -> dict[str, Any]:
    """Return the versions of driver and libraries, every GPU, and what is wrong with them.

    The result is documented as the return values of the module ``gpu_info``.

    :param venv: The virtual environment that has nvidia-ml-py; None for the one that this Python belongs to.
    :param expected_gpus: How many GPUs there should be.
    """
    loaded = loaded_driver()
    facts: dict[str, Any] = {
        "available": False,
        "driver_version": None,
        "cuda_driver_version": None,
        "nvml_version": None,
        "kernel_module_version": loaded and loaded.version,
        "gpus": [],
    }
    problems: list[Problem] = []
    try:
        nvml = load_binding(venv)
    except InvalidInput as error:
        return {**facts, "problems": [asdict(Problem("binding_untrusted", str(error)))]}
    if nvml is None:
        place = venv or "this Python's environment"
        missing = f"nvidia-ml-py 13 or later is not in {place}; install it with the role python_venv"
        problems.append(Problem("binding_missing", missing))
    else:
        try:
            nvml.nvmlInit()
            try:
                facts.update(_ask_library(nvml))
                facts["gpus"] = [_ask_gpu(nvml, index, problems) for index in range(nvml.nvmlDeviceGetCount())]
                facts["available"] = True
            finally:
                nvml.nvmlShutdown()
        except nvml.NVMLError as error:
            problems.append(problem_of(error))
    found = len(facts["gpus"])
    if facts["available"] and expected_gpus not in (None, found):
        problems.append(Problem("gpu_count", f"expected {expected_gpus} GPUs, found {found}"))
    return {**facts, "problems": [asdict(problem) for problem in problems]}


def describe(facts: Mapping[str, Any]) -> str:
    """Put facts into one sentence."""
    if facts["problems"]:
        return "; ".join(
            problem["message"] if problem["gpu"] is None else f"GPU {problem['gpu']}: {problem['message']}"
            for problem in facts["problems"]
        )
    names = sorted({gpu["name"] or "unnamed" for gpu in facts["gpus"]})
    return f"driver {facts['driver_version']}, {len(facts['gpus'])} GPUs: {', '.join(names) or 'none'}"


def working_parts(facts: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Yield what a program can have for itself, each time with its GPU: a GPU that works, or its MIG devices."""
    for gpu in facts["gpus"]:
        if gpu["state"] == "ok":
            for part in gpu["mig"]["devices"] if gpu["mig"] and gpu["mig"]["enabled"] else [gpu]:
                yield gpu, part


def _ask_library(nvml: ModuleType) -> dict[str, Any]:
    cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()
    return {
        "driver_version": nvml.nvmlSystemGetDriverVersion(),
        "nvml_version": nvml.nvmlSystemGetNVMLVersion(),
        "cuda_driver_version": f"{cuda // 1000}.{cuda % 1000 // 10}",
    }


def _ask_gpu(nvml: ModuleType, index: int, problems: list[Problem]) -> dict[str, Any]:
    """Return the facts of one GPU: null for what it does not support or can no longer tell. Add to ``problems``."""
    gpu: dict[str, Any] = {"index": index, "state": "ok", **dict.fromkeys(_READERS)}
    try:
        device = Device(nvml, index, problems)
        for fact, read in _READERS.items():
            gpu[fact] = read(device)
    except nvml.NVMLError as error:
        problem = problem_of(error, index)
        problems.append(problem)
        gpu["state"] = {"gpu_lost": "lost", "reset_required": "reset_required"}.get(problem.reason, "error")
    return gpu


def _pci_address(device: Device) -> str | None:
    info = device.ask("nvmlDeviceGetPciInfo")
    # As Linux writes it: NVML gives the domain eight digits.
    return None if info is None else re.sub("^0000(?=[0-9a-f]{4}:)", "", info.busId.lower())


def _compute_capability(device: Device) -> str | None:
    version = device.ask("nvmlDeviceGetCudaComputeCapability")
    return None if version is None else "{}.{}".format(*version)


def _memory(device: Device) -> dict[str, int] | None:
    memory = device.ask("nvmlDeviceGetMemoryInfo", device.nvml.nvmlMemory_v2)
    if memory is None:
        memory = device.ask("nvmlDeviceGetMemoryInfo")
    return None if memory is None else {"total_mib": memory.total // _MIB, "free_mib": memory.free // _MIB}


def _temperature(device: Device) -> int | None:
    value: int | None = device.ask("nvmlDeviceGetTemperatureV", device.nvml.NVML_TEMPERATURE_GPU)
    return device.ask("nvmlDeviceGetTemperature", device.nvml.NVML_TEMPERATURE_GPU) if value is None else value


def _power(device: Device) -> dict[str, float | None]:
    used, limit = device.ask("nvmlDeviceGetPowerUsage"), device.ask("nvmlDeviceGetEnforcedPowerLimit")
    return {"used_watts": None if used is None else used / 1000, "limit_watts": None if limit is None else limit / 1000}


def _utilization(device: Device) -> dict[str, int] | None:
    rates = device.ask("nvmlDeviceGetUtilizationRates")
    return None if rates is None else {"gpu_percent": rates.gpu, "memory_percent": rates.memory}


def _ecc(device: Device) -> dict[str, Any] | None:
    modes = device.ask("nvmlDeviceGetEccMode")
    if modes is None:
        return None
    nvml = device.nvml
    errors = {
        f"{scope}_{kind}": device.ask("nvmlDeviceGetTotalEccErrors", error, counter)
        for scope, counter in (("volatile", nvml.NVML_VOLATILE_ECC), ("aggregate", nvml.NVML_AGGREGATE_ECC))
        for kind, error in (
            ("corrected", nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
            ("uncorrected", nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
        )
    }
    return {"enabled": bool(modes[0]), "pending": bool(modes[1]), **errors}


def _mig(device: Device) -> dict[str, Any] | None:
    modes = device.ask("nvmlDeviceGetMigMode")
    if modes is None:
        return None
    devices = [
        {
            "index": index,
            "uuid": part.ask("nvmlDeviceGetUUID"),
            "name": part.ask("nvmlDeviceGetName"),
            "memory": _memory(part),
        }
        for index, part in device.mig_devices()
    ]
    return {"enabled": bool(modes[0]), "pending": bool(modes[1]), "devices": devices}


def _throttle_reasons(device: Device) -> list[str] | None:
    mask = device.ask("nvmlDeviceGetCurrentClocksEventReasons")
    if mask is None:
        mask = device.ask("nvmlDeviceGetCurrentClocksThrottleReasons")
    return None if mask is None else [name for bit, name in _THROTTLE_REASONS.items() if mask & bit]


def _remapped_rows(device: Device) -> dict[str, Any] | None:
    rows = device.ask("nvmlDeviceGetRemappedRows")
    if rows is None:
        return None
    return {"corrected": rows[0], "uncorrected": rows[1], "pending": bool(rows[2]), "failed": bool(rows[3])}


def _retired_pages(device: Device) -> dict[str, Any] | None:
    nvml = device.nvml
    single = device.ask("nvmlDeviceGetRetiredPages", nvml.NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS)
    double = device.ask("nvmlDeviceGetRetiredPages", nvml.NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR)
    if single is None or double is None:
        return None
    pending = device.ask("nvmlDeviceGetRetiredPagesPendingStatus")
    return {"single_bit": len(single), "double_bit": len(double), "pending": None if pending is None else bool(pending)}


def _nvlinks(device: Device) -> dict[str, int] | None:
    states = [device.ask("nvmlDeviceGetNvLinkState", link) for link in range(device.nvml.NVML_NVLINK_MAX_LINKS)]
    found = [state for state in states if state is not None]
    return {"total": len(found), "active": sum(found)} if found else None


def _fabric(device: Device) -> dict[str, Any] | None:
    info = device.nvml.c_nvmlGpuFabricInfo_v2_t()
    if device.ask("nvmlDeviceGetGpuFabricInfoV", ctypes.byref(info)) is None:
        return None
    return {
        "state": _FABRIC_STATES.get(info.state, str(info.state)),
        "status": info.status,
        "clique_id": info.cliqueId,
        "health_mask": info.healthMask,
    }


def _processes(device: Device) -> list[dict[str, Any]] | None:
    found: dict[int, dict[str, Any]] = {}
    supported = False
    for kind, function in (
        ("compute", "nvmlDeviceGetComputeRunningProcesses"),
        ("graphics", "nvmlDeviceGetGraphicsRunningProcesses"),
        ("mps", "nvmlDeviceGetMPSComputeRunningProcesses"),
    ):
        processes = device.ask(function)
        supported = supported or processes is not None
        for process in processes or ():
            used = process.usedGpuMemory
            found.setdefault(
                process.pid,
                {
                    "pid": process.pid,
                    "name": _process_name(device.nvml, process.pid),
                    "type": kind,
                    "memory_mib": None if used is None else used // _MIB,
                },
            )
    return [found[pid] for pid in sorted(found)] if supported else None


def _process_name(nvml: ModuleType, pid: int) -> str | None:
    try:
        name: str = nvml.nvmlSystemGetProcessName(pid)
    except (nvml.NVMLError, UnicodeDecodeError):  # it has ended, or belongs to another namespace
        return None
    return name


_READERS: dict[str, Callable[[Device], Any]] = {
    "uuid": lambda device: device.ask("nvmlDeviceGetUUID"),
    "name": lambda device: device.ask("nvmlDeviceGetName"),
    "pci_address": _pci_address,
    "compute_capability": _compute_capability,
    "memory": _memory,
    "temperature_celsius": _temperature,
    "power": _power,
    "utilization": _utilization,
    "ecc": _ecc,
    "mig": _mig,
    "throttle_reasons": _throttle_reasons,
    "remapped_rows": _remapped_rows,
    "retired_pages": _retired_pages,
    "nvlinks": _nvlinks,
    "fabric": _fabric,
    "processes": _processes,
}

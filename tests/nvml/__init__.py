# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A ``libnvidia-ml.so.1`` with NVML's binary interface, which answers what a JSON description says.

The real nvidia-ml-py loads it as it loads NVIDIA's.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LIBRARY = "libnvidia-ml.so.1"

# What a healthy host with one GPU of the current data center generation says.
H100: dict[str, Any] = {
    "uuid": "GPU-5a1b6d0e-9c8f-4c58-b7a3-2f4f5f0c1d2e",
    "name": "NVIDIA H100 80GB HBM3",
    "pci_address": "00000000:17:00.0",
    "compute_capability": "9.0",
    "memory": {"total": 81559 << 20, "free": 81000 << 20},
    "temperature": 31,
    "power_usage": 69540,
    "power_limit": 700000,
    "utilization": {"gpu": 0, "memory": 0},
    "ecc": {
        "current": 1,
        "pending": 1,
        "volatile": {"corrected": 0, "uncorrected": 0},
        "aggregate": {"corrected": 2, "uncorrected": 0},
    },
    "mig_mode": {"current": 0, "pending": 0, "most": 7},
    "throttle_reasons": 1,
    "remapped_rows": {"corrected": 0, "uncorrected": 0, "pending": 0, "failed": 0},
    "nvlinks": [1] * 18,
    "fabric": {"state": 3, "status": 0, "clique_id": 4, "health_mask": 0},
    "processes": {"compute": [], "graphics": [], "mps": []},
}


def host(*gpus: dict[str, Any], **other: Any) -> dict[str, Any]:
    """Describe a host with a working driver and these GPUs."""
    versions = {"driver_version": "580.95.05", "nvml_version": "13.580.95.05", "cuda_driver_version": 13000}
    return {**versions, "gpus": list(gpus), **other}


def build(directory: Path, *, old_driver: bool = False) -> Path:
    """Compile the library into a directory; return that for ``LD_LIBRARY_PATH``.

    :param old_driver: Leave out what drivers before 2023 do not export.
    """
    directory.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).with_name("fake_nvml.c")
    command = ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", f"-Wl,-soname,{LIBRARY}"]
    command += ["-DOLD_DRIVER"] * old_driver
    subprocess.run([*command, "-o", str(directory / LIBRARY), str(source)], check=True)
    return directory


def write(description: dict[str, Any], path: Path) -> dict[str, str]:
    """Write a description where the library reads it; return the environment that makes it do so."""
    path.write_text("".join(f"{key} = {value}\n" for key, value in _flat(description)), encoding="utf-8")
    return {"FAKE_NVML": str(path)}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what C reads easily: one line for each value; a list has a line with its length, too."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        yield f"{path}.count", len(value)
        for index, inner in enumerate(value):
            yield from _flat(inner, f"{path}.{index}")
    else:
        yield path, value

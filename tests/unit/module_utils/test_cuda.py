# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which driver suits which build of torch, and how a driver is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._cuda import (
    Driver,
    driver_problem,
    loaded_driver,
    newest_cuda,
)


@pytest.mark.parametrize(
    ("cuda", "driver", "wanted"),
    [
        ("13.0", "580.65.06", None),
        ("13.2", "595.10", None),
        ("13.0", "575.57.08", "580"),
        ("12.8", "525.60.13", None),
        ("12.6", "580.65.06", None),
        ("12.8", "515.105.01", "525"),
        ("11.8", "450.80.02", None),
        ("11.8", "440.33", "450"),
        ("14.0", "580.65.06", None),
        ("12.8", "not a version", None),
        (None, "390.157", None),
    ],
)
def test_driver_problem(cuda: str | None, driver: str, wanted: str | None) -> None:
    problem = driver_problem(cuda, Driver(driver, 1))
    if wanted is None:
        assert problem is None
    else:
        assert problem is not None
        assert f"built for CUDA {cuda}: expected NVIDIA driver {wanted} or later, found {driver}" in problem


def test_no_driver() -> None:
    assert driver_problem("13.0", None) is None


def test_loaded_driver(tmp_path: Path) -> None:
    assert loaded_driver(str(tmp_path)) is None
    version = tmp_path / "sys/module/nvidia/version"
    version.parent.mkdir(parents=True)
    version.write_text("580.65.06\n", encoding="ascii")
    assert loaded_driver(str(tmp_path)) == Driver("580.65.06", 0)
    for gpu in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "proc/driver/nvidia/gpus" / gpu).mkdir(parents=True)
    assert loaded_driver(str(tmp_path)) == Driver("580.65.06", 2)


@pytest.mark.parametrize(
    ("branch", "cuda"), [(595, 13), (580, 13), (570, 12), (535, 12), (525, 12), (515, 11), (470, 11), (390, 11)]
)
def test_newest_cuda(branch: int, cuda: int) -> None:
    assert newest_cuda(branch) == cuda

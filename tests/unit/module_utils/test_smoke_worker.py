# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The worker's own arithmetic, and what it asks of torch for a GPU's memory."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._smoke_worker import Device, percentile

MIB = 1 << 20
TOTAL = {0: 80000 * MIB, 1: 40000 * MIB}


class Cuda:
    """Two GPUs, as far as torch.cuda is asked."""

    def __init__(self) -> None:
        self.ready = False
        self.fractions: dict[int, float] = {}
        self.reserved = {0: 700 * MIB, 1: 900 * MIB}

    def init(self) -> None:
        self.ready = True

    def get_device_properties(self, gpu: int) -> Any:
        assert self.ready
        return SimpleNamespace(total_memory=TOTAL[gpu])

    def set_per_process_memory_fraction(self, fraction: float, gpu: int) -> None:
        assert 0 <= fraction <= 1  # torch refuses others
        self.fractions[gpu] = fraction

    def reset_peak_memory_stats(self, gpu: int) -> None:
        assert self.ready

    def max_memory_reserved(self, gpu: int) -> int:
        return self.reserved[gpu]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    cuda = Cuda()
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    return cuda


def job(device: str = "cuda", gpus: int = 1, gpu_memory_mib: float | None = None) -> dict[str, Any]:
    return {"device": device, "gpus": gpus, "gpu_memory_mib": gpu_memory_mib}


def test_the_limit_bounds_the_test_and_not_the_next_one(cuda: Cuda) -> None:
    Device(job(gpu_memory_mib=20000))
    assert cuda.fractions == {0: 0.25}
    Device(job())
    assert cuda.fractions == {0: 1.0}


def test_each_of_several_gpus_is_bounded(cuda: Cuda) -> None:
    device = Device(job(gpus=2, gpu_memory_mib=50000))
    assert cuda.fractions == {0: 0.625, 1: 1.0}
    assert device.peak_memory_mib() == 900
    assert Device(job()).peak_memory_mib() == 700


def test_a_processor_is_not_asked(cuda: Cuda) -> None:
    assert Device(job("cpu", 0, 20000)).peak_memory_mib() is None
    assert not cuda.ready


@pytest.mark.parametrize(("count", "p95"), [(1, 1), (2, 2), (3, 3), (19, 19), (20, 19), (40, 38)])
def test_the_95th_percentile(count: int, p95: int) -> None:
    assert percentile([float(value) for value in range(count, 0, -1)], 95) == p95

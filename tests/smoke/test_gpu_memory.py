# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A GPU whose memory does not suffice, by the word of a library that answers in the place of NVIDIA's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.hub import Hub
from tests.integration.harness import assert_sentence
from tests.nvml import H100, build, write
from tests.nvml import host as gpu_host
from tests.smoke.test_model_smoke import SmokeHost

NAMES = {"4711": "/opt/vllm/bin/python", "4712": "VLLM::\tEngine"}
COMPUTE = ({"pid": 4711, "memory": 70000 << 20}, {"pid": 4712, "memory": 11000 << 20})


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


def full(host: SmokeHost, library: Path, free_mib: int = 0, compute: Any = COMPUTE) -> None:
    """Give a host a GPU whose memory others use."""
    memory = {"total": 81559 << 20, "free": free_mib << 20}
    gpu = {**H100, "memory": memory, "processes": {**H100["processes"], "compute": list(compute)}}
    host.variables |= {"LD_LIBRARY_PATH": str(library), **write(gpu_host(gpu, process_names=NAMES), host.home / "nvml")}


@pytest.fixture
def host(hub: Hub, tmp_path: Path) -> SmokeHost:
    return SmokeHost(hub, tmp_path)


def test_who_uses_the_memory_is_named(host: SmokeHost, library: Path, models: dict[str, Path]) -> None:
    host.stage(models["phi3"], dtype=["bfloat16", "int8"])
    full(host, library)
    users = "its memory is used by /opt/vllm/bin/python (pid 4711) with 70000 MiB, VLLM:: Engine (pid 4712) with 11000"
    result = host.smoke()
    assert_sentence(result, "phi3: bfloat16 on GPU 0 (NVIDIA H100 80GB HBM3): needs about 1 MiB", "of 0 MiB", users)
    assert result.msg.count("is used by") == 1
    assert [attempt["reason"] for attempt in result.models[0]["attempts"]] == ["too_large", "too_large"]


def test_many_users_are_counted(host: SmokeHost, library: Path, models: dict[str, Path]) -> None:
    host.stage(models["bert"])
    full(host, library, compute=[{"pid": pid, "memory": 1 << 20} for pid in range(100, 108)])
    assert_sentence(host.smoke(), "a process (pid 104) with 1 MiB and 3 more")


def test_nobody_is_blamed_for_the_limit(host: SmokeHost, library: Path, models: dict[str, Path]) -> None:
    host.stage(models["phi3"], limits={"gpu_memory_mib": 0.5})
    full(host, library, free_mib=500)
    result = host.smoke()
    assert_sentence(result, "needs about ")
    assert "is used by" not in result.msg

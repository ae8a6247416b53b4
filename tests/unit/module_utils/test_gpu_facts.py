# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GPU facts over NVML's binary interface: the real nvidia-ml-py and a library that answers as described."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.nvml import H100, build, host, write

Ask = Callable[..., dict[str, Any]]

_PROGRAM = """
import json, sys
from ansible_collections.gpufleet.models.plugins.module_utils._gpu_facts import describe, gather_facts
facts = gather_facts(*json.loads(sys.argv[1]))
print(json.dumps({**facts, "msg": describe(facts)}))
"""


@pytest.fixture(scope="session", params=["new driver", "old driver"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the library is, as a recent driver and as an old one has it."""
    return build(tmp_path_factory.mktemp("nvml"), old_driver=request.param == "old driver")


@pytest.fixture
def ask(library: Path, tmp_path: Path) -> Ask:
    """Gather the facts of a host in a process of its own, as the loader reads its path only once."""

    def ask(
        description: dict[str, Any] | None, venv: str | None = None, expected_gpus: int | None = None
    ) -> dict[str, Any]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        if description is not None:
            environment |= {"LD_LIBRARY_PATH": str(library), **write(description, tmp_path / "nvml")}
        command = [sys.executable, "-c", _PROGRAM, json.dumps([venv, expected_gpus])]
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
        facts: dict[str, Any] = json.loads(answer.stdout)
        return facts

    return ask


def problems(facts: dict[str, Any]) -> list[tuple[str, int | None]]:
    """Return the reasons, each with its GPU."""
    return [(problem["reason"], problem["gpu"]) for problem in facts["problems"]]


def test_healthy_host(ask: Ask, library: Path) -> None:
    facts = ask(host(H100), expected_gpus=1)
    assert facts["available"]
    assert facts["problems"] == []
    assert facts["msg"] == "driver 580.95.05, 1 GPUs: NVIDIA H100 80GB HBM3"
    assert facts["driver_version"] == "580.95.05"
    assert facts["nvml_version"] == "13.580.95.05"
    assert facts["cuda_driver_version"] == "13.0"
    (gpu,) = facts["gpus"]
    fabric = gpu.pop("fabric")
    assert fabric in (None, {"state": "completed", "status": 0, "clique_id": 4, "health_mask": 0})
    assert gpu == {
        "index": 0,
        "state": "ok",
        "uuid": "GPU-5a1b6d0e-9c8f-4c58-b7a3-2f4f5f0c1d2e",
        "name": "NVIDIA H100 80GB HBM3",
        "pci_address": "0000:17:00.0",
        "compute_capability": "9.0",
        "memory": {"total_mib": 81559, "free_mib": 81000},
        "temperature_celsius": 31,
        "power": {"used_watts": 69.54, "limit_watts": 700.0},
        "utilization": {"gpu_percent": 0, "memory_percent": 0},
        "ecc": {
            "enabled": True,
            "pending": True,
            "volatile_corrected": 0,
            "volatile_uncorrected": 0,
            "aggregate_corrected": 2,
            "aggregate_uncorrected": 0,
        },
        "mig": {"enabled": False, "pending": False, "devices": []},
        "throttle_reasons": ["gpu_idle"],
        "remapped_rows": {"corrected": 0, "uncorrected": 0, "pending": False, "failed": False},
        "retired_pages": None,
        "nvlinks": {"total": 18, "active": 18},
        "processes": [],
    }


def test_what_a_gpu_does_not_support_is_null(ask: Ask) -> None:
    facts = ask(host({"uuid": "GPU-0", "name": "NVIDIA GeForce GT 710", "pci_address": "00010000:01:00.0"}))
    assert facts["problems"] == []
    (gpu,) = facts["gpus"]
    assert gpu.pop("pci_address") == "00010000:01:00.0"
    assert gpu.pop("power") == {"used_watts": None, "limit_watts": None}
    known = {name: value for name, value in gpu.items() if value is not None}
    assert known == {"index": 0, "state": "ok", "uuid": "GPU-0", "name": "NVIDIA GeForce GT 710"}


def test_values_of_a_gpu_in_use(ask: Ask) -> None:
    used = {
        **H100,
        "utilization": {"gpu": 97, "memory": 41},
        "throttle_reasons": 0x4 | 0x40,
        "retired_pages": {"single_bit": 0, "double_bit": 2, "pending": 1},
        "nvlinks": [1, 1, 0, 1],
        "processes": {
            "compute": [{"pid": 4000 + number, "memory": 512 << 20} for number in range(30)],
            "graphics": [{"pid": 71}],
            "mps": [{"pid": 4000, "memory": 1 << 20}],
        },
    }
    facts = ask(host(used, process_names={"4000": "/usr/bin/python3"}))
    (gpu,) = facts["gpus"]
    assert gpu["throttle_reasons"] == ["sw_power_cap", "hw_thermal_slowdown"]
    assert gpu["utilization"] == {"gpu_percent": 97, "memory_percent": 41}
    assert gpu["retired_pages"] == {"single_bit": 0, "double_bit": 2, "pending": True}
    assert gpu["nvlinks"] == {"total": 4, "active": 3}
    assert len(gpu["processes"]) == 31
    assert gpu["processes"][0] == {"pid": 71, "name": None, "type": "graphics", "memory_mib": None}
    assert gpu["processes"][1] == {"pid": 4000, "name": "/usr/bin/python3", "type": "compute", "memory_mib": 512}


def test_mig(ask: Ask) -> None:
    parts = {
        str(index): {
            "uuid": f"MIG-{index}",
            "name": "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
            "memory": {"total": 40448 << 20, "free": 40400 << 20},
        }
        for index in (0, 2)
    }
    # As long as it is on, what the GPU as a whole uses of its time is not known.
    gpu = {**H100, "mig_mode": {"current": 1, "pending": 1, "most": 7}, "mig": parts}
    del gpu["utilization"]
    facts = ask(host(gpu))
    assert facts["problems"] == []
    assert facts["gpus"][0]["utilization"] is None
    memory = {"total_mib": 40448, "free_mib": 40400}
    name = "NVIDIA H100 80GB HBM3 MIG 3g.40gb"
    assert facts["gpus"][0]["mig"] == {
        "enabled": True,
        "pending": True,
        "devices": [
            {"index": 0, "uuid": "MIG-0", "name": name, "memory": memory},
            {"index": 2, "uuid": "MIG-2", "name": name, "memory": memory},
        ],
    }


def test_several_gpus_one_off_the_bus(ask: Ask) -> None:
    lost_when_opened = {**H100, "errors": {"nvmlDeviceGetHandleByIndex_v2": 15}}
    lost_when_asked = {**H100, "errors": {"nvmlDeviceGetTemperatureV": 15, "nvmlDeviceGetTemperature": 15}}
    to_be_reset = {**H100, "errors": {"nvmlDeviceGetName": 16}}
    facts = ask(host(H100, lost_when_opened, lost_when_asked, to_be_reset, H100))
    assert facts["available"]
    assert [gpu["state"] for gpu in facts["gpus"]] == ["ok", "lost", "lost", "reset_required", "ok"]
    assert problems(facts) == [("gpu_lost", 1), ("gpu_lost", 2), ("reset_required", 3)]
    assert facts["gpus"][1]["uuid"] is None
    assert facts["gpus"][2]["uuid"] == H100["uuid"]
    assert facts["gpus"][4]["memory"] == {"total_mib": 81559, "free_mib": 81000}
    assert facts["msg"].startswith("GPU 1: it has fallen off the bus; reboot the host")


@pytest.mark.parametrize("expected", [0, 1, 8])
def test_another_number_of_gpus_than_expected(ask: Ask, expected: int) -> None:
    facts = ask(host(H100, H100), expected_gpus=expected)
    assert problems(facts) == [("gpu_count", None)]
    assert facts["msg"] == f"expected {expected} GPUs, found 2"
    assert len(facts["gpus"]) == 2


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [
        (9, "driver_not_loaded", "kernel module nvidia is not loaded"),
        (4, "no_permission", "privileges"),
        (18, "version_mismatch", "reboot the host"),
        (15, "gpu_lost", "fallen off the bus"),
        (999, "nvml_error", "NVML error 999, Unknown Error"),
        (12345, "nvml_error", "NVML error 12345"),
    ],
)
def test_driver_that_does_not_answer(ask: Ask, code: int, reason: str, words: str) -> None:
    facts = ask(host(H100, errors={"nvmlInit": code}), expected_gpus=1)
    assert not facts["available"]
    assert facts["gpus"] == []
    assert facts["driver_version"] is None
    assert problems(facts) == [(reason, None)]
    assert words in facts["msg"]


@pytest.mark.parametrize("function", ["nvmlSystemGetDriverVersion", "nvmlDeviceGetCount_v2"])
def test_driver_that_stops_answering(ask: Ask, function: str) -> None:
    facts = ask(host(H100, errors={function: 17}))
    assert not facts["available"]
    assert problems(facts) == [("nvml_error", None)]


def test_an_error_that_is_not_missing_support_is_told(ask: Ask) -> None:
    facts = ask(host({**H100, "errors": {"nvmlDeviceGetPowerUsage": 999}}))
    assert facts["gpus"][0]["state"] == "ok"
    assert facts["gpus"][0]["power"] == {"used_watts": None, "limit_watts": 700.0}
    assert facts["msg"] == "GPU 0: nvmlDeviceGetPowerUsage: NVML error 999, Unknown Error"


def test_no_library(ask: Ask) -> None:
    facts = ask(None)
    assert not facts["available"]
    assert problems(facts) == [("library_missing", None)]


def test_binding_of_another_environment(ask: Ask, tmp_path: Path) -> None:
    site_packages = tmp_path / "env [1]" / "lib" / "python3.99" / "site-packages"
    site_packages.mkdir(parents=True)
    venv = str(tmp_path / "env [1]")
    assert problems(ask(host(H100), venv=venv)) == [("binding_missing", None)]
    spec = importlib.util.find_spec("pynvml")
    assert spec is not None
    assert spec.origin is not None
    shutil.copy(spec.origin, site_packages)
    assert ask(host(H100), venv=venv)["problems"] == []
    (site_packages / "pynvml.py").write_text("# too old\n", encoding="utf-8")
    assert problems(ask(host(H100), venv=venv)) == [("binding_missing", None)]

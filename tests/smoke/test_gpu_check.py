# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The check of GPUs: torch on the CPU in their place, NVML's binary interface, and faults below torch's operations."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import CHECKOUT, ModuleProcess, assert_sentence, environment, wait_until
from tests.nvml import H100, build, write
from tests.nvml import host as gpu_host

INFERENCE = CHECKOUT / ".cache" / "inference" / "bin" / "python"

# Work that a CPU can do: the engine is the module's, the device is not.
_PROGRAM = """
import json, sys, threading
from ansible_collections.gpufleet.models.plugins.module_utils._gpu_check import Driver, check_gpus
from ansible_collections.gpufleet.models.plugins.module_utils._gpu_load import Load
venv, timeout, patience = sys.argv[1], *map(float, sys.argv[2:])
cancelled = threading.Event()
driver = Driver(venv, cancelled, patience)
load = Load(1.0, 0.5, timeout, "cpu", (64, 64), 4)
report = check_gpus(driver.ask(), driver, load, venv, cancelled)
gpus = [outcome.to_json() for outcome in report.outcomes]
print(json.dumps({"gpus": gpus, "peers": report.pairs(), "failures": report.failures()}))
"""

Start = Callable[..., "Started"]


def gpu(fault: str, **other: Any) -> dict[str, Any]:
    """Describe a GPU that has a fault, and memory for one chunk."""
    memory = {"total": 2048 << 20, "free": 1640 << 20}
    return {**H100, "uuid": f"GPU-{fault}", "name": "NVIDIA Test", "memory": memory, **other}


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the library is that answers in the place of NVIDIA's."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="session")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An inference environment: the real torch, on devices that have faults, and nvidia-ml-py."""
    assert INFERENCE.exists(), f"{INFERENCE} is missing: run 'make inference'"
    directory = tmp_path_factory.mktemp("env")
    site_packages = directory / "lib" / "python3.11" / "site-packages"
    site_packages.mkdir(parents=True)
    spec = importlib.util.find_spec("pynvml")
    assert spec is not None
    assert spec.origin is not None
    shutil.copy(spec.origin, site_packages)
    python = directory / "bin" / "python"
    python.parent.mkdir()
    # As a real one it sees nothing of what is set for Ansible's Python.
    command = f'exec env -u PYTHONPATH {INFERENCE} {CHECKOUT / "tests" / "gpu_faults.py"} "$@"'
    python.write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
    python.chmod(0o755)
    return directory


@dataclass(frozen=True)
class Started:
    """A check that runs."""

    process: subprocess.Popen[str]
    home: Path

    def workers(self) -> list[int]:
        """Return the processes that work."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if (path / "cwd").readlink() == self.home and b"gpu_faults" in (path / "cmdline").read_bytes():
                    found.append(int(path.name))
            except OSError:
                continue
        return found

    def become(self, description: dict[str, Any]) -> None:
        """Let the GPUs be otherwise, once they work."""
        wait_until(lambda: bool(self.workers()), "a GPU at work")
        write(description, self.home / "new")
        (self.home / "new").replace(self.home / "nvml")

    def finish(self) -> dict[str, Any]:
        output, errors = self.process.communicate(timeout=400)
        assert self.process.returncode == 0, errors
        assert self.workers() == []
        report: dict[str, Any] = json.loads(output)
        return report


@pytest.fixture(scope="session")
def start(library: Path, venv: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Start the check of a host."""

    def start(description: dict[str, Any], timeout: float = 200, patience: float = 60) -> Started:
        home = tmp_path_factory.mktemp("home")
        variables = environment(home, LD_LIBRARY_PATH=str(library), **write(description, home / "nvml"))
        command = [sys.executable, "-c", _PROGRAM, str(venv), str(timeout), str(patience)]
        pipe = subprocess.PIPE
        return Started(subprocess.Popen(command, env=variables, cwd=home, stdout=pipe, stderr=pipe, text=True), home)

    return start


def broken(gpu: dict[str, Any]) -> dict[str, str]:
    """Return what was found, by the names of the checks that failed."""
    assert gpu["ok"] is all(check["ok"] for check in gpu["checks"])
    return {check["check"]: check["found"] for check in gpu["checks"] if not check["ok"]}


FAULTS = ["none", "fine", "sustained", "float16", "stuck", "address", "copy", "crash", "error"]


@pytest.fixture(scope="session")
def report(start: Start) -> dict[str, Any]:
    """What came of a host with GPUs that each have another fault, but for the first two, and one that is lost."""
    lost = gpu("lost", errors={"nvmlDeviceGetName": 15})
    return start(gpu_host(*map(gpu, FAULTS), lost)).finish()


def of(report: dict[str, Any], index: int) -> dict[str, Any]:
    """Return what came of a GPU."""
    found: dict[str, Any] = next(gpu for gpu in report["gpus"] if gpu["index"] == index)
    return found


def test_a_gpu_without_fault(report: dict[str, Any]) -> None:
    good = of(report, 0)
    assert broken(good) == {}
    assert [check["check"] for check in good["checks"]] == [
        "sustained product",
        *(f"product {dtype}" for dtype in ("bfloat16", "float16", "float32", "float64", "int8")),
        *(f"memory {pattern}" for pattern in ("0x55", "0xAA", "address")),
        "copies",
        "state",
        "uncorrected memory errors",
        "remapped rows",
        "slowdown",
    ]
    assert good["uuid"] == "GPU-none"
    assert good["dtype"] == "bfloat16"
    assert set(good["tflops"]) == {"first", "last"}
    assert good["datasheet_tflops"] is None
    assert good["memory_mib"] == 64
    assert all(good["gb_per_second"][way] > 0 for way in ("host_to_device", "device_to_host", "device_to_device"))
    assert good["added_errors"] == {"corrected": 0, "uncorrected": 0}
    assert good["throttle_reasons"] == ["gpu_idle"]
    assert good["temperature_celsius"] == 31
    assert good["power_watts"] == 69.54
    assert good["processes"] == []


def test_products_are_the_same_everywhere(report: dict[str, Any]) -> None:
    first, second = of(report, 0)["products"], of(report, 1)["products"]
    assert first == second
    assert len(first) == 5
    assert first["bfloat16"] == first["float16"] != first["float32"]
    assert first["float32"] == first["float64"] == first["int8"]
    wrong = of(report, FAULTS.index("float16"))["products"]
    assert {dtype for dtype in first if wrong[dtype] != first[dtype]} == {"float16"}


@pytest.mark.parametrize(
    ("fault", "checks"),
    [
        ("sustained", {"sustained product": "that differ"}),
        ("float16", {"product float16": "1 elements that differ; at row 63, column 61 "}),
        ("stuck", {"memory 0xAA": "at byte 37688 0xaaaaaaaaaabaaaaa instead of 0xaaaaaaaaaaaaaaaa"}),
        ("address", {"memory address": "4194304 words that differ; at byte 33554432 "}),
        ("copy", {"copies": "1 words that differ; at byte 136 "}),
        ("crash", {"products": "the process was ended by SIGSEGV during products"}),
        ("error", {"products": "CUDA error: uncorrectable ECC error encountered"}),
    ],
)
def test_a_fault_is_found_in_its_own_check_alone(report: dict[str, Any], fault: str, checks: dict[str, str]) -> None:
    index = FAULTS.index(fault)
    found = broken(of(report, index))
    assert list(found) == list(checks)
    for check, words in checks.items():
        assert words in found[check]
        assert any(
            sentence.startswith(f"GPU {index} (NVIDIA Test): {check}: expected ") and found[check] in sentence
            for sentence in report["failures"]
        )


def test_a_gpu_that_is_lost_is_not_passed_over(report: dict[str, Any]) -> None:
    assert list(broken(of(report, 9))) == ["state"]
    assert any("GPU 9 (unnamed): state: expected ok, found lost; it has fallen off" in s for s in report["failures"])


def test_all_pairs_of_gpus_that_work_exchange_data(report: dict[str, Any]) -> None:
    able = range(FAULTS.index("crash"))
    assert {(pair["from"], pair["to"]) for pair in report["peers"]} == {(a, b) for a in able for b in able if a != b}
    # Only the last one of the devices tells their fault there: a copy of a few MiB is damaged.
    assert not any(pair["ok"] for pair in report["peers"])
    (sentence,) = [sentence for sentence in report["failures"] if "peer copy" in sentence]
    assert sentence.startswith(
        "GPU 0 to GPU 1: peer copy: expected what was sent, found 1 words that differ; at byte 136"
    )
    assert sentence.endswith("and the like between 41 other pairs")


@pytest.mark.parametrize(
    ("faults", "good"),
    [(("none", "fine"), True), (("bfloat16", "peer"), False)],
)
def test_copies_between_gpus(start: Start, faults: tuple[str, str], good: bool) -> None:
    report = start(gpu_host(*map(gpu, faults))).finish()
    assert [(pair["from"], pair["to"], pair["ok"], pair["direct"]) for pair in report["peers"]] == [
        (0, 1, good, False),
        (1, 0, good, False),
    ]
    assert list(broken(of(report, 0))) == ([] if good else ["product bfloat16"])
    assert broken(of(report, 1)) == {}
    assert len(report["failures"]) == (0 if good else 2)


def test_what_the_driver_tells_meanwhile(start: Start) -> None:
    quiet = gpu("none")
    started = start(gpu_host(quiet))
    ecc = {
        **H100["ecc"],
        "volatile": {"corrected": 5, "uncorrected": 2},
        "aggregate": {"corrected": 7, "uncorrected": 2},
    }
    rows = {"corrected": 0, "uncorrected": 1, "pending": 1, "failed": 0}
    hot = {"ecc": ecc, "remapped_rows": rows, "throttle_reasons": 0x48, "temperature": 93, "power_usage": 345000}
    started.become(gpu_host({**quiet, **hot}))
    report = started.finish()
    (found,) = report["gpus"]
    assert broken(found) == {
        "uncorrected memory errors": "2",
        "remapped rows": "1",
        "slowdown": "hw_slowdown, hw_thermal_slowdown, at up to 93 degrees Celsius",
    }
    assert found["added_errors"] == {"corrected": 5, "uncorrected": 2}
    assert found["throttle_reasons"] == ["gpu_idle", "hw_slowdown", "hw_thermal_slowdown"]
    assert found["temperature_celsius"] == 93
    assert found["power_watts"] == 345


@pytest.mark.parametrize(("error", "patience", "state"), [(15, 60, "lost"), (-1, 5, "no answer of the driver")])
def test_a_gpu_that_goes_away_meanwhile(start: Start, error: int, patience: float, state: str) -> None:
    started = start(gpu_host(gpu("none"), errors={}), patience=patience)
    started.become(gpu_host(gpu("none", errors={"nvmlDeviceGetUUID": error})))
    report = started.finish()
    assert broken(report["gpus"][0]) == {"state": state}


def test_a_gpu_that_is_slow(start: Start) -> None:
    users = {"compute": [{"pid": 4711, "memory": 1 << 20}], "graphics": [], "mps": []}
    slow = gpu("none", name="NVIDIA A100-SXM4-80GB", processes=users)
    (found,) = start(gpu_host(slow, process_names={"4711": "vllm"})).finish()["gpus"]
    assert found["datasheet_tflops"] == 312
    assert list(broken(found)) == ["speed"]
    assert broken(found)["speed"].endswith("in the first second, on a GPU that vllm (4711) had in use")


def test_a_gpu_that_hangs_is_stopped_and_the_others_are_checked(start: Start) -> None:
    report = start(gpu_host(gpu("hang"), gpu("none")), timeout=40).finish()
    assert list(broken(of(report, 0))) == ["products"]
    assert "products was not done after" in broken(of(report, 0))["products"]
    assert broken(of(report, 1)) == {}
    assert report["peers"] == []


def test_mig_devices(start: Start) -> None:
    parts = {
        str(index): {"uuid": f"MIG-{fault}", "name": "NVIDIA Test MIG 1g.5gb", "memory": gpu("")["memory"]}
        for index, fault in ((0, "none"), (2, "float32"))
    }
    whole = gpu("whole", mig_mode={"current": 1, "pending": 1, "most": 7}, mig=parts)
    empty = {**whole, "uuid": "GPU-empty", "mig": {}}
    report = start(gpu_host(whole, empty)).finish()
    outcomes = {gpu["uuid"]: broken(gpu) for gpu in report["gpus"]}
    assert list(outcomes) == ["GPU-empty", "MIG-none", "MIG-float32"]
    assert outcomes["MIG-none"] == {}
    assert list(outcomes["MIG-float32"]) == ["product float32"]
    assert outcomes["GPU-empty"] == {"MIG": "none"}
    assert report["peers"] == []


# The module itself: its device is a GPU, and there is none.


@pytest.fixture
def module(library: Path, venv: Path, tmp_path: Path) -> Callable[..., ModuleProcess]:
    """Start the module on a host."""

    def module(description: dict[str, Any] | None = None, **arguments: Any) -> ModuleProcess:
        variables = {}
        if description is not None:
            variables = {"LD_LIBRARY_PATH": str(library), **write(description, tmp_path / "nvml")}
        return ModuleProcess("gpu_check", {"venv": str(venv), **arguments}, environment(tmp_path, **variables))

    return module


Module = Callable[..., ModuleProcess]


@pytest.mark.parametrize("mode", [True, False])
def test_a_host_without_a_gpu_is_skipped(module: Module, mode: bool) -> None:
    result = module(_ansible_check_mode=mode).finish()
    assert not result.failed
    assert not result.changed
    assert result.verdict == "skip"
    assert result.msg == "nothing was checked: no driver is loaded, and no NVIDIA GPU is on the PCI bus"
    assert result.gpus == result.peers == result.failures == []


def test_check_mode_gives_no_work(module: Module) -> None:
    result = module(gpu_host(H100, H100), _ansible_check_mode=True).finish()
    assert not result.failed
    assert result.verdict == "skip"
    assert result.msg == "would check GPU 0 (NVIDIA H100 80GB HBM3), GPU 1 (NVIDIA H100 80GB HBM3)"


def test_an_environment_whose_torch_is_not_for_gpus(module: Module) -> None:
    result = module(gpu_host(H100)).finish(timeout=120)
    assert_sentence(result, "GPU 0 (NVIDIA H100 80GB HBM3): sustained product: expected a result within 300 s, found ")
    assert result.verdict == "fail"
    assert [gpu["ok"] for gpu in result.gpus] == [False]
    assert "CUDA" in result.failures[0]


@pytest.mark.parametrize(("error", "words"), [(18, "reboot the host"), (999, "NVML error 999")])
def test_a_driver_that_does_not_work(module: Module, error: int, words: str) -> None:
    result = module(gpu_host(H100, errors={"nvmlInit": error})).finish()
    assert_sentence(result, "expected a GPU that works, found none: ", words)
    assert "verdict" not in result.values


def test_no_environment(module: Module, library: Path, venv: Path, tmp_path: Path) -> None:
    shutil.copytree(venv / "lib", tmp_path / "env" / "lib")
    result = module(gpu_host(H100), venv=str(tmp_path / "env")).finish()
    assert_sentence(result, "bin/python is not there; make the environment with the role python_venv")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seconds": 0}, "seconds: expected 1 to 86400, found 0"),
        ({"memory_share": 1}, "memory_share: expected 0.01 to 0.95, found 1"),
        ({"memory_share": "nan"}, "memory_share: expected 0.01 to 0.95, found nan"),
        ({"timeout": 0.5}, "timeout: expected 1 to 172800, found 0.5"),
        ({"seconds": 300}, "timeout: expected more than the 300 seconds of work; allow more time"),
    ],
)
def test_wrong_arguments(module: Module, arguments: dict[str, Any], message: str) -> None:
    assert_sentence(module(**arguments).finish(), message)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_module_that_is_stopped(module: Module, tmp_path: Path, number: signal.Signals) -> None:
    process = module(gpu_host(gpu("none"), gpu("fine")))
    started = Started(process.popen, tmp_path)
    wait_until(lambda: len(started.workers()) == 2, "two GPUs at work")
    process.send(number)
    result = process.finish(timeout=20)
    assert result.failed
    if number == signal.SIGTERM:
        assert_sentence(result, "stopped")
    wait_until(lambda: not started.workers(), "the end of the workers")


# The playbook.


def play(tmp_path: Path, venv: Path, hosts: list[str], **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run the playbook on hosts that are this one."""
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = tmp_path / "hosts.json"
    inventory.write_text(json.dumps({"all": {"hosts": dict.fromkeys(hosts, local)}}), encoding="utf-8")
    nvml = variables.pop("nvml", {})
    command = ["ansible-playbook", "-i", str(inventory), "gpufleet.models.gpu_check"]
    command += ["-e", json.dumps({"model_store_venv": str(venv), **variables})]
    collections = {"ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / ".collections"), "ANSIBLE_NOCOLOR": "1"}
    env = environment(tmp_path, **collections, **nvml)
    return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)


def test_the_playbook_on_hosts_without_gpus(tmp_path: Path, venv: Path) -> None:
    ended = play(tmp_path, venv, ["gpu-1", "gpu-2"])
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.count("SKIP: nothing was checked: no driver is loaded") == 2
    assert "PASS" not in ended.stdout


def test_the_playbook_fails_where_a_gpu_does_not_compute(tmp_path: Path, library: Path, venv: Path) -> None:
    nvml = {"LD_LIBRARY_PATH": str(library), **write(gpu_host(H100), tmp_path / "nvml")}
    ended = play(tmp_path, venv, ["gpu-1"], nvml=nvml)
    assert ended.returncode == 2
    assert "GPU 0 (NVIDIA H100 80GB HBM3): sustained product: expected a result within 300 s" in ended.stdout


def test_the_playbook_names_the_host_that_is_behind(tmp_path: Path, venv: Path) -> None:
    found = {
        host: {"verdict": "pass", "msg": "fine", "gpus": [measured(rate)]}
        for host, rate in (("gpu-1", 57.0), ("gpu-2", 30.0), ("gpu-3", 58.0))
    }
    # What the module returns on each host, in the place of what it returns here.
    ended = play(tmp_path, venv, list(found), found=found, __gpu_check="{{ found[inventory_hostname] }}")
    assert ended.returncode == 2, ended.stdout
    words = "GPU 0 (NVIDIA L4): tflops: expected at least 51.3 TFLOP/s, of 57.0, the median of 3 GPUs, found 30.0"
    assert words in " ".join(ended.stdout.split())
    assert [line.split()[0] for line in ended.stdout.splitlines() if "failed=1" in line] == ["gpu-2"]


def measured(rate: float) -> dict[str, Any]:
    """Return a GPU of the module's result."""
    return {
        "index": 0,
        "name": "NVIDIA L4",
        "tflops": {"first": rate, "last": rate},
        "gb_per_second": None,
        "products": {"bfloat16": "60e14fc215a88000"},
    }

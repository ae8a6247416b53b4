# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The program that proves GPUs, where there is none: its cases are rehearsed, and its verdict is never a pass."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import CHECKOUT
from tests.nvml import H100, build, write
from tests.nvml import host as gpu_host
from tests.smoke.conftest import INFERENCE

RUN = CHECKOUT / "tests/gpu/run"
GPU = {**H100, "name": "Pretended GPU", "utilization": {"gpu": 37, "memory": 1}}
# As nvidia-smi prints what it is asked for about that GPU.
NVIDIA_SMI = f"580.95.05, {GPU['uuid']}, Pretended GPU, 00000000:17:00.0, 9.0, 81559, 700.00, Enabled, Disabled"


def run(report: Path, *arguments: str, python: Path = INFERENCE, **variables: str) -> tuple[int, dict[str, Any], str]:
    """Run it, and return its exit status, its report, and what it printed."""
    command = [RUN, "--python", python, "--report", report, *arguments]
    ended = subprocess.run(
        command, env={**os.environ, **variables}, cwd=report.parent, capture_output=True, text=True, check=False
    )
    assert report.exists(), ended.stdout + ended.stderr
    return ended.returncode, json.loads(report.read_text(encoding="utf-8")), ended.stdout + ended.stderr


def verdicts(report: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    return {case["name"]: (case["verdict"], case["reason"]) for case in report["cases"]}


@pytest.fixture(scope="module")
def pretended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Return a Python whose torch takes the processor for a GPU, and the variables with a driver that tells of it."""
    directory = tmp_path_factory.mktemp("pretended")
    packages = directory / "pretended-packages"
    packages.mkdir()
    shutil.copy(CHECKOUT / "tests/gpu/pretended.py", packages)
    subprocess.run([INFERENCE, "-m", "venv", "--without-pip", directory / "env"], check=True)
    theirs = next((INFERENCE.parents[1] / "lib").glob("python3*/site-packages"))
    ours = next((directory / "env/lib").glob("python3*/site-packages"))
    # Not as sitecustomize, of which Debian's Python has one of its own.
    (packages / "pretended.pth").write_text("import pretended\n", encoding="utf-8")
    (ours / "base.pth").write_text(f"{theirs}\nimport site; site.addsitedir({str(packages)!r})\n", encoding="utf-8")
    shutil.copy(theirs / "pynvml.py", ours)
    programs = directory / "bin"
    programs.mkdir()
    (programs / "nvidia-smi").write_text(f"#!/bin/sh\necho '{NVIDIA_SMI}'\n", encoding="utf-8")
    (programs / "nvidia-smi").chmod(0o755)
    library = build(directory / "lib")
    variables = write(gpu_host(GPU), directory / "nvml")
    path = f"{programs}:{os.environ['PATH']}"
    return directory / "env/bin/python", {**variables, "LD_LIBRARY_PATH": str(library), "PATH": path}


def test_without_a_gpu_nothing_is_proven(tmp_path: Path) -> None:
    status, report, said = run(tmp_path / "report.json")
    assert status == 2
    assert (report["ok"], report["verdict"], report["cases"]) == (False, "no gpu", [])
    assert report["problem"].startswith("torch computes on no GPU: ")
    assert "which proves nothing: torch computes on no GPU: " in said


def test_a_python_without_torch_is_named(tmp_path: Path) -> None:
    command = [RUN, "--python", "/usr/bin/python3", "--report", tmp_path / "report.json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "has no torch; name a Python that has one with --python" in ended.stderr


def test_cases_on_the_processor(tmp_path: Path) -> None:
    """What a GPU is compared with, and the cases that say that they were not run."""
    cases = ("stage", "inference", "minilm", "half_precision", "gpu_check", "users_are_named")
    status, report, _said = run(tmp_path / "report.json", "--rehearse", "--large", "phi3_7m", "--only", *cases)
    assert (status, report["ok"], report["verdict"]) == (3, False, "rehearsal"), report
    assert verdicts(report) == {
        "gpu_check": ("not run", "no GPU"),
        "stage": ("passed", None),
        "inference": ("passed", None),
        "minilm": ("passed", None),
        "half_precision": ("passed", None),
        "users_are_named": ("not run", "no GPU"),
    }
    figures = {case["name"]: case["figures"] for case in report["cases"]}
    assert figures["minilm"]["largest_difference"] < 1e-5
    assert figures["half_precision"]["bfloat16"]["cosine"] >= 0.9995


def test_cases_on_a_pretended_gpu(tmp_path: Path, pretended: tuple[Path, dict[str, str]]) -> None:
    """The choice of types, by the prediction and by memory that runs out, and the comparison of two witnesses."""
    python, variables = pretended
    cases = (
        *("gpu_info", "stage", "large_model", "cap_chooses_type", "cap_chooses_quantized_type"),
        *("memory_runs_out", "memory_runs_out_for_all", "several_gpus"),
    )
    given = ("--large", "phi3_7m", "--only", *cases)
    status, report, _said = run(tmp_path / "report.json", *given, python=python, **variables)
    told = verdicts(report)
    assert told.pop("several_gpus") == ("not run", "no second GPU")
    assert set(told.values()) == {("passed", None)}, told
    assert (status, report["ok"], report["verdict"]) == (3, False, "incomplete")
    figures = {case["name"]: case["figures"] for case in report["cases"]}
    assert report["gpus"] == [figures["gpu_info"]["gpus"][0]["name"]] == ["Pretended GPU"]
    assert figures["large_model"]["gpu_utilization_percent"] == 37
    assert figures["cap_chooses_type"]["dtype"] == "bfloat16"
    assert [figures["cap_chooses_quantized_type"][dtype]["dtype"] for dtype in ("int8", "nf4")] == ["int8", "nf4"]
    assert "out of memory" in figures["memory_runs_out_for_all"]["told"][0]


def test_a_witness_that_disagrees(tmp_path: Path, pretended: tuple[Path, dict[str, str]]) -> None:
    python, variables = pretended
    cold = {**GPU, "memory": {"total": 40000 << 20, "free": 40000 << 20}}
    variables |= write(gpu_host(cold), tmp_path / "nvml")
    status, report, _said = run(tmp_path / "report.json", "--only", "gpu_info", python=python, **variables)
    assert (status, report["verdict"]) == (1, "fail")
    reason = "GPU 0: memory.total: nvidia-smi says 81559, gpu_info 40000"
    assert verdicts(report)["gpu_info"] == ("failed", reason)

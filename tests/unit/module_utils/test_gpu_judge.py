# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a GPU did against its datasheet, integer arithmetic, the driver's word, and the other GPUs of the fleet."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput
from ansible_collections.gpufleet.models.plugins.module_utils._gpu_check import reason_to_skip
from ansible_collections.gpufleet.models.plugins.module_utils._gpu_datasheet import datasheet_of
from ansible_collections.gpufleet.models.plugins.module_utils._gpu_fleet import find_gpu_outliers
from ansible_collections.gpufleet.models.plugins.module_utils._gpu_judge import (
    added_errors,
    judge_device,
    judge_pair,
    judge_steps,
)
from ansible_collections.gpufleet.models.plugins.module_utils._gpu_load import Load, Part

# A GPU as the facts of a host have it.
GPU: dict[str, Any] = {
    "index": 0,
    "state": "ok",
    "ecc": {
        "volatile_corrected": 0,
        "volatile_uncorrected": 0,
        "aggregate_corrected": 40,
        "aggregate_uncorrected": 4,
    },
    "remapped_rows": {"corrected": 1, "uncorrected": 2, "pending": False, "failed": False},
    "retired_pages": None,
    "throttle_reasons": ["gpu_idle"],
    "temperature_celsius": 40,
    "processes": [],
}
# What it measured.
STEPS: dict[str, Any] = {
    "sustained product": {"dtype": "bfloat16", "first": 700.0, "last": 680.0, "products": 50, "wrong": 0},
    "products": {"bfloat16": {"wrong": 0, "columns": 64}, "int8": {"wrong": 0, "columns": 64}},
    "memory": {"mib": 128, "patterns": {"0x55": {"wrong": 0}, "address": {"wrong": 0}}},
    "copies": {"wrong": 0},
}
H100 = "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA B200", 2250),
        ("NVIDIA GH200 480GB", 990),
        ("NVIDIA GH200 144G HBM3e", 990),
        ("NVIDIA H200", 989.5),
        ("NVIDIA H200 NVL", 835.5),
        (H100, 989.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A40", 149.7),
        ("NVIDIA A30", 165),
        ("NVIDIA A10", 125),
        ("NVIDIA L40S", 362),
        ("NVIDIA L40", 181),
        ("NVIDIA L4", 121),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
        ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA RTX A5000", 111.1),
        ("NVIDIA RTX A4000", 76.7),
        ("Tesla V100-SXM2-16GB", 125),
        ("Tesla V100S-PCIE-32GB", 130),
        ("Tesla V100-PCIE-16GB", 112),
        ("Tesla T4", 65),
    ],
)
def test_datasheets(name: str, tflops: float) -> None:
    datasheet = datasheet_of(name)
    assert datasheet is not None
    assert datasheet.tflops == tflops
    assert 0.2 * tflops < datasheet.least < 0.6 * tflops


@pytest.mark.parametrize(
    "name",
    # Others with a name that begins alike, parts that a hypervisor cuts off, and what is not known.
    [
        "NVIDIA A10G",
        "NVIDIA A40-48Q",
        "GRID A100-10C",
        "NVIDIA L4-24Q",
        "NVIDIA GeForce RTX 4090",
        "NVIDIA T400",
        "",
        "A",
    ],
)
def test_unknown_gpus_have_no_datasheet(name: str) -> None:
    assert datasheet_of(name) is None


def test_a_mig_device_has_its_share() -> None:
    whole, part = datasheet_of(H100), datasheet_of(f"{H100} MIG 3g.40gb")
    assert whole is not None
    assert part is not None
    assert part.tflops == whole.tflops * 3 / 8
    assert part.least == whole.least * 3 / 8


def failed(name: str = H100, before: dict[str, Any] | None = None, **steps: Any) -> dict[str, str]:
    checks = judge_steps(name, {**STEPS, **steps}, before or GPU)
    return {check.check: check.found for check in checks if not check.ok}


def test_a_gpu_that_computes_right() -> None:
    assert failed() == {}
    assert len(list(judge_steps(H100, STEPS, GPU))) == 7
    assert len(list(judge_steps("NVIDIA T400", STEPS, GPU))) == 6  # its speed is not judged
    assert list(judge_steps(H100, {}, GPU)) == []


def test_a_product_that_is_wrong() -> None:
    wrong = {"wrong": 3, "columns": 64, "at": 130, "expected": -7.0, "found": float("nan")}
    words = "3 elements that differ; at row 2, column 2 nan instead of -7"
    assert failed(products={"float16": wrong}) == {"product float16": words}


def test_memory_that_forgets() -> None:
    wrong = {"wrong": 1, "at": 2, "expected": -1, "found": 1}
    words = "1 words that differ; at byte 16 0x0000000000000001 instead of 0xffffffffffffffff"
    assert failed(memory={"mib": 64, "patterns": {"0xAA": wrong}}) == {"memory 0xAA": words}
    assert failed(copies=wrong) == {"copies": words}
    assert judge_pair(wrong).found == words
    assert judge_pair({"wrong": 0}).ok


def test_products_that_are_not_the_same_each_time() -> None:
    sustained = {**STEPS["sustained product"], "wrong": 2}
    assert failed(**{"sustained product": sustained}) == {"sustained product": "2 of 50 that differ"}


def test_a_gpu_that_is_slow() -> None:
    slow = {"sustained product": {**STEPS["sustained product"], "last": 395.7}}
    assert failed(**slow) == {"speed": "395.7 TFLOP/s, 700.0 in the first second"}
    used = {**GPU, "processes": [{"pid": 7, "name": None}, {"pid": 8, "name": "vllm"}]}
    assert failed(before=used, **slow)["speed"].endswith(", on a GPU that a process (7), vllm (8) had in use")
    assert failed("NVIDIA A100-SXM4-80GB", **slow) == {}


def told(after: dict[str, Any] | None, *during: dict[str, Any], before: dict[str, Any] | None = None) -> dict[str, str]:
    return {check.check: check.found for check in judge_device(before or GPU, during, after) if not check.ok}


def test_a_driver_with_nothing_to_tell() -> None:
    assert told(GPU, GPU) == {}
    unknown = dict.fromkeys(("ecc", "remapped_rows", "retired_pages", "throttle_reasons", "temperature_celsius"))
    assert told({**GPU, **unknown}, before={**GPU, **unknown}) == {}
    assert told({**GPU, "state": "lost", **unknown}) == {"state": "lost"}
    assert told(None) == {"state": "no answer of the driver"}


@pytest.mark.parametrize(
    ("counters", "added"),
    [
        ({}, 0),
        ({"aggregate_uncorrected": 6}, 2),
        ({"volatile_uncorrected": 3, "aggregate_uncorrected": 7}, 3),
        ({"volatile_uncorrected": None}, 0),
        ({"volatile_uncorrected": None, "aggregate_uncorrected": None}, None),
    ],
)
def test_memory_errors(counters: dict[str, int | None], added: int | None) -> None:
    after = {**GPU, "ecc": {**GPU["ecc"], **counters}}
    assert added_errors(GPU, after, "uncorrected") == added
    assert told(after) == ({"uncorrected memory errors": str(added)} if added else {})
    assert added_errors(GPU, {**GPU, "ecc": None}, "uncorrected") is None


def test_counters_that_began_anew_with_the_driver() -> None:
    before = {**GPU, "ecc": {**GPU["ecc"], "volatile_uncorrected": 9}}
    after = {**GPU, "ecc": {**GPU["ecc"], "volatile_uncorrected": 1}}
    assert added_errors(before, after, "uncorrected") == 1


def test_corrected_errors_are_no_failure() -> None:
    after = {**GPU, "ecc": {**GPU["ecc"], "volatile_corrected": 9}}
    assert told(after) == {}
    assert added_errors(GPU, after, "corrected") == 9


def test_memory_that_was_given_up() -> None:
    rows = GPU["remapped_rows"]
    assert told({**GPU, "remapped_rows": {**rows, "uncorrected": 4}}) == {"remapped rows": "2"}
    exhausted = {**GPU, "remapped_rows": {**rows, "failed": True}}
    assert told(exhausted, before=exhausted) == {"remapped rows": "one that failed; exchange the GPU"}
    pages = {"single_bit": 0, "double_bit": 3, "pending": False}
    old = {**GPU, "remapped_rows": None, "retired_pages": pages}
    assert told(old, before=old) == {}
    assert told({**old, "retired_pages": {**pages, "double_bit": 4}}, before=old) == {"retired pages": "1"}


@pytest.mark.parametrize("place", ["before", "during", "after"])
def test_slowdowns_are_named_whenever_they_were(place: str) -> None:
    hot = {**GPU, "throttle_reasons": ["sw_power_cap", "hw_thermal_slowdown", "sw_thermal_slowdown"]}
    hot["temperature_celsius"] = 91
    seen = {"before": GPU, "during": GPU, "after": GPU, place: hot}
    found = told(seen["after"], seen["during"], before=seen["before"])
    assert found == {"slowdown": "hw_thermal_slowdown, sw_thermal_slowdown, at up to 91 degrees Celsius"}


def test_a_power_limit_is_no_failure() -> None:
    assert told(GPU, {**GPU, "throttle_reasons": ["sw_power_cap", "sync_boost"]}) == {}


@pytest.mark.parametrize(
    ("free_mib", "share", "mib"),
    [(80000, 0.5, 40000), (80000, 0.95, 76000), (8000, 0.95, 6464), (1000, 0.5, 0), (None, 0.5, 1024)],
)
def test_how_much_memory_is_tested(free_mib: int | None, share: float, mib: int) -> None:
    jobs = Load(5, share, 300).jobs(Part(0, "GPU-1", H100, free_mib))
    assert [job["mib"] for job in jobs if job["step"] == "memory"] == [mib]


def facts(*reasons: str, module: str | None = None) -> dict[str, Any]:
    problems = [{"reason": reason, "gpu": None, "message": f"told {reason}"} for reason in reasons]
    versions = {"driver_version": "580", "kernel_module_version": module}
    return {"gpus": [], "problems": problems, **versions}


@pytest.mark.parametrize("reason", ["library_missing", "driver_not_loaded", "binding_missing"])
def test_a_host_without_a_gpu(reason: str) -> None:
    assert reason_to_skip(facts(reason), 0) == "no driver is loaded, and no NVIDIA GPU is on the PCI bus"
    with pytest.raises(InvalidInput, match="found none: 2 on the PCI bus, without a driver that is loaded"):
        reason_to_skip(facts(reason), 2)
    with pytest.raises(InvalidInput, match=f"expected a GPU that works, found none: told {reason}"):
        reason_to_skip(facts(reason, module="580.95.05"), 0)


@pytest.mark.parametrize(
    "reasons", [("version_mismatch",), ("no_permission",), ("binding_untrusted",), ("nvml_error",)]
)
def test_a_driver_that_does_not_work_is_no_reason_to_skip(reasons: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput, match=f"told {reasons[0]}"):
        reason_to_skip(facts(*reasons), 0)


def test_a_driver_that_has_no_gpu_left() -> None:
    with pytest.raises(InvalidInput, match="found none: driver 580, 0 GPUs: none"):
        reason_to_skip(facts(module="580.95.05"), 0)
    assert reason_to_skip({**facts(), "gpus": [GPU]}, 0) is None


def measured(tflops: float, name: str = H100, **other: Any) -> dict[str, Any]:
    copies = {"host_to_device": 50.0, "device_to_host": 50.0, "device_to_device": 1200.0}
    speed = {"first": 2 * tflops, "last": tflops}
    gpu = {
        "index": 1,
        "name": name,
        "tflops": speed,
        "gb_per_second": copies,
        "products": {"int8": "a", "float16": "b"},
    }
    return {**gpu, **other}


def test_a_gpu_that_is_behind_the_others() -> None:
    fleet = {"gpu-1": [measured(700), measured(701)], "gpu-2": [measured(629)], "gpu-3": []}
    assert find_gpu_outliers(fleet) == {
        "gpu-2": [
            f"GPU 1 ({H100}): tflops: expected at least 630.0 TFLOP/s, of 700.0, the median of 3 GPUs, found 629.0"
        ]
    }
    fleet["gpu-2"] = [measured(631)]
    assert find_gpu_outliers(fleet) == {}


def test_only_gpus_of_a_name_are_compared_and_three_of_them() -> None:
    assert find_gpu_outliers({"a": [measured(700), measured(100)]}) == {}
    assert find_gpu_outliers({"a": [measured(700), measured(700)], "b": [measured(100, "NVIDIA L4")]}) == {}


@pytest.mark.parametrize(
    ("way", "rate", "named"),
    [
        ("device_to_device", 1070.0, True),
        ("device_to_device", 1090.0, False),
        ("host_to_device", 25.0, True),
        ("device_to_host", 25.0, True),
        ("device_to_host", 35.0, False),
    ],
)
def test_copies_that_are_behind(way: str, rate: float, named: bool) -> None:
    slow = measured(700, gb_per_second={**measured(700)["gb_per_second"], way: rate})
    found = find_gpu_outliers({"a": [measured(700), measured(700)], "b": [slow]})
    assert list(found) == (["b"] if named else [])
    if named:
        assert f": {way}: expected at least " in found["b"][0]


def test_products_that_differ() -> None:
    wrong = measured(700, "NVIDIA L4", products={"int8": "a", "float16": "x"})
    found = find_gpu_outliers({"a": [measured(700), measured(700)], "b": [wrong]})
    words = "GPU 1 (NVIDIA L4): product float16: expected the checksum b, as 2 of 3 GPUs have, found x"
    assert found == {"b": [words]}
    both = find_gpu_outliers({"a": [measured(700)], "b": [wrong]})
    assert sorted(both) == ["a", "b"]
    assert "expected the checksum one that GPUs agree on, found b" in both["a"][0]


def test_gpus_that_were_not_measured_are_left_out() -> None:
    nothing = {**measured(0), "tflops": None, "gb_per_second": None, "products": {}}
    assert find_gpu_outliers({"a": [nothing, measured(700), measured(700)], "b": [measured(700)]}) == {}
    assert find_gpu_outliers({}) == {}

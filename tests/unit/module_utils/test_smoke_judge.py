# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was measured against what is expected, on one host and over several."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput
from ansible_collections.gpufleet.models.plugins.module_utils._smoke_fleet import find_outliers
from ansible_collections.gpufleet.models.plugins.module_utils._smoke_judge import Check, Golden, judge, ranking
from ansible_collections.gpufleet.models.plugins.module_utils._smoke_spec import Smoke

OUTPUTS = ((0.6, 0.8), (0.8, 0.6), (1.0, 0.0))
WIDE = tuple((*output, 0.5, 0.1) for output in OUTPUTS)
MEASURED: dict[str, Any] = {
    "loading": {},
    "dtype": "float32",
    "outputs": WIDE,
    "unknown_tokens": 0.1,
    "texts": ["a house", "x", "y"],
    "largest_difference": 0.0,
    "latency_ms": {"median": 10.0, "p95": 12.0},
    "tokens_per_second": 50.0,
    "gpu_memory_mib": 300,
    "load_seconds": {"cold": 2.0, "warm": 0.5},
}
GOLDEN = Golden("tiny", "0" * 40, "embedding", "float32", ("a", "b", "c"), WIDE)


def failed(measured: dict[str, Any], smoke: Smoke = Smoke(), golden: Golden | None = GOLDEN) -> list[str]:  # noqa: B008
    task = "rerank" if smoke.order else "embedding"
    return [check.check for check in judge({**MEASURED, **measured}, smoke, task, golden) if not check.ok]


def test_what_is_as_it_must_be() -> None:
    smoke = Smoke(
        dimension=4,
        contains="house",
        limits={
            "load_seconds": 2.0,
            "latency_p95_ms": 12.0,
            "gpu_memory_mib": 300,
            "min_tokens_per_second": 50,
            "min_cosine": 0.99,
        },
    )
    checks = judge(MEASURED, smoke, "embedding", GOLDEN)
    assert all(check.ok for check in checks), checks
    assert len(checks) == 12  # every check but the order of passages


@pytest.mark.parametrize(
    ("measured", "check"),
    [
        ({"loading": {"missing_keys": ["head.weight"]}}, "weights"),
        ({"loading": {"mismatched_keys": ["a", "b", "c", "d"]}}, "weights"),
        ({"unknown_tokens": 0.9}, "tokens"),
        ({"outputs": [[math.nan], *WIDE[1:]]}, "finite"),
        ({"outputs": [[math.inf, 0, 0, 0], *WIDE[1:]]}, "finite"),
        ({"largest_difference": 0.1}, "deterministic"),
        ({"largest_difference": None}, "deterministic"),
        ({"outputs": [(0.9, 0.8, 0.5, 0.1), *WIDE[1:]]}, "golden"),
        ({"outputs": WIDE[:2]}, "golden"),
    ],
)
def test_what_fails_alone(measured: dict[str, Any], check: str) -> None:
    assert failed(measured) == [check]


def test_outputs_that_do_not_depend_on_the_input() -> None:
    assert failed({"outputs": [WIDE[0]] * 3}, golden=None) == ["distinct"]


@pytest.mark.parametrize(
    ("smoke", "check"),
    [
        (Smoke(dimension=384), "dimension"),
        (Smoke(contains="Haus"), "contains"),
        (Smoke(limits={"load_seconds": 1.9}), "load_seconds"),
        (Smoke(limits={"latency_p95_ms": 11.9}), "latency_p95_ms"),
        (Smoke(limits={"gpu_memory_mib": 299}), "gpu_memory_mib"),
        (Smoke(limits={"min_tokens_per_second": 51}), "tokens_per_second"),
    ],
)
def test_what_the_catalog_wants(smoke: Smoke, check: str) -> None:
    assert failed({}, smoke) == [check]


def test_limits_of_what_was_not_measured_do_not_count() -> None:
    limits = {"gpu_memory_mib": 1.0, "min_tokens_per_second": 1e6}
    assert failed({"gpu_memory_mib": None, "tokens_per_second": None}, Smoke(limits=limits)) == []


def test_a_type_decides_how_close_outputs_must_be() -> None:
    near = [(0.6, 0.8, 0.5, 0.13), *WIDE[1:]]
    assert failed({"outputs": near}) == ["golden"]
    assert failed({"outputs": near, "dtype": "bfloat16"}) == []
    assert failed({"outputs": near}, Smoke(limits={"min_cosine": 0.999})) == []


def test_a_failure_tells_what_was_expected_and_found() -> None:
    checks = judge({**MEASURED, "loading": {"missing_keys": list("abcde")}}, Smoke(), "embedding", None)
    assert checks[0] == Check(
        "weights", False, "every weight of the model in its files", "missing keys a, b, c and 2 more"
    )


def test_the_order_of_passages() -> None:
    scores = [[0.1], [0.9], [0.5]]
    assert ranking(scores) == [2, 3, 1]
    assert failed({"outputs": scores}, Smoke(order=(2, 3, 1)), None) == []
    assert failed({"outputs": scores}, Smoke(order=(1, 2, 3)), None) == ["order"]
    # One number each has no direction: all of them together are compared, and their order.
    golden = replace(GOLDEN, task="rerank", outputs=((0.9,), (0.1,), (0.5,)))
    assert failed({"outputs": scores}, Smoke(order=(2, 3, 1)), golden) == ["golden", "golden order"]


def test_scores_count_by_how_they_differ() -> None:
    """Two rerankers that give every passage nearly the same score agree about nothing."""
    golden = replace(GOLDEN, task="rerank", outputs=((-11.02,), (-11.01,), (-10.99,)))
    scores = [[-3.00], [-3.01], [-3.02]]
    assert failed({"outputs": scores}, Smoke(order=(1, 2, 3)), golden) == ["golden", "golden order"]
    assert failed({"outputs": golden.outputs}, Smoke(order=(3, 2, 1)), golden) == []


def test_a_golden_file_says_what_it_was_made_from() -> None:
    assert Golden.parse("x", GOLDEN.to_json()) == GOLDEN


@pytest.mark.parametrize(
    "damage",
    [
        {"golden_version": 2},
        {"outputs": []},
        {"outputs": [[]]},
        {"outputs": [["x"]]},
        {"inputs": [1]},
        {"commit": None},
        {"name": {}},
    ],
)
def test_a_damaged_golden_file(damage: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=r"^golden/x"):
        Golden.parse("golden/x", {**GOLDEN.to_json(), **damage})
    with pytest.raises(InvalidInput, match="not a golden file"):
        Golden.parse("golden/x", [])


def test_the_host_that_computes_something_else_is_named() -> None:
    wrong = replace(GOLDEN, outputs=((0.9, 0.1, 0.5, 0.1), *WIDE[1:]))
    fleet = {"gpu-1": [GOLDEN], "gpu-2": [wrong], "gpu-3": [GOLDEN], "gpu-4": []}
    outliers = find_outliers(fleet)
    assert list(outliers) == ["gpu-2"]
    assert outliers["gpu-2"][0].startswith(
        "tiny: expected a cosine of at least 0.99999 to the median of 3 hosts, found 0.7"
    )
    assert find_outliers({"gpu-1": [GOLDEN], "gpu-2": [GOLDEN]}) == {}


def test_two_hosts_that_differ_are_both_named() -> None:
    wrong = replace(GOLDEN, outputs=((0.9, 0.1, 0.5, 0.1), *WIDE[1:]))
    assert sorted(find_outliers({"gpu-1": [GOLDEN], "gpu-2": [wrong]})) == ["gpu-1", "gpu-2"]


def test_only_what_is_the_same_is_compared() -> None:
    other = replace(GOLDEN, outputs=tuple(tuple(-value for value in output) for output in WIDE))
    for change in ({"commit": "1" * 40}, {"dtype": "int8"}, {"inputs": ("x", "y", "z")}):
        assert find_outliers({"gpu-1": [GOLDEN], "gpu-2": [replace(other, **change)]}) == {}

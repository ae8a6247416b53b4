# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a catalog may say about a smoke test."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput
from ansible_collections.gpufleet.models.plugins.module_utils._smoke_spec import DEFAULT_INPUTS, Smoke, parse_smoke

EVERYTHING = {
    "task": "rerank",
    "engine": "transformers",
    "inputs": ["query", "one", "two"],
    "dtype": ["bfloat16", "int8"],
    "expect": {"dimension": 1, "order": [2, 1], "contains": "x"},
    "limits": {"load_seconds": 10, "latency_p95_ms": 5.5, "min_cosine": 0.9},
    "timeout": 60,
}


def test_everything_that_can_be_said() -> None:
    assert parse_smoke("smoke", EVERYTHING) == Smoke(
        task="rerank",
        engine="transformers",
        inputs=("query", "one", "two"),
        dtypes=("bfloat16", "int8"),
        dimension=1,
        order=(2, 1),
        contains="x",
        limits={"load_seconds": 10.0, "latency_p95_ms": 5.5, "min_cosine": 0.9},
        timeout=60.0,
    )


def test_nothing_said_is_a_test_with_every_default() -> None:
    assert parse_smoke("smoke", None) == parse_smoke("smoke", {}) == Smoke()
    assert Smoke().inputs_for("embedding") == DEFAULT_INPUTS
    # The query, a passage that answers it, and others that do not.
    assert len(Smoke().inputs_for("rerank")) == len(DEFAULT_INPUTS) + 1
    assert Smoke(inputs=("a",)).inputs_for("rerank") == ("a",)


def test_a_model_can_be_left_out_for_a_reason() -> None:
    assert parse_smoke("smoke", {"skip": "an adapter"}).skip == "an adapter"


def test_one_dtype_needs_no_list() -> None:
    assert parse_smoke("smoke", {"dtype": "int8"}).dtypes == ("int8",)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([], "smoke: expected a mapping"),
        ({"tasks": "x"}, "smoke: unknown key tasks"),
        ({"task": "chat"}, "smoke.task: expected one of embedding, rerank"),
        ({"task": ["embedding"]}, "smoke.task: expected one of"),
        ({"engine": "vllm"}, "smoke.engine: expected one of transformers"),
        ({"inputs": "text"}, "smoke.inputs: expected a list of texts"),
        ({"inputs": ["x", ""]}, "smoke.inputs: expected a list of texts"),
        ({"dtype": ["fp8"]}, "smoke.dtype: expected one or more of"),
        ({"dtype": ["int8", "int8"]}, "smoke.dtype: a dtype occurs twice"),
        ({"dtype": 8}, "smoke.dtype: expected"),
        ({"expect": {"size": 1}}, "smoke.expect: unknown key size"),
        ({"expect": {"dimension": 0}}, "smoke.expect.dimension: expected a whole number from 1 on"),
        ({"expect": {"dimension": True}}, "smoke.expect.dimension: expected"),
        ({"expect": {"contains": ""}}, "smoke.expect.contains: expected a text"),
        ({"expect": {"order": [1]}}, "smoke.expect.order: it counts the passages of 'inputs'"),
        ({"inputs": ["q", "a", "b"], "expect": {"order": [1, 1]}}, "smoke.expect.order: expected each number from 1"),
        ({"inputs": ["q", "a", "b"], "expect": {"order": ["1", "2"]}}, "smoke.expect.order: expected"),
        ({"limits": {"latency": 1}}, "smoke.limits: unknown key latency"),
        ({"limits": {"load_seconds": 0}}, "smoke.limits.load_seconds: expected a number above 0, found 0"),
        ({"limits": {"load_seconds": "fast"}}, "smoke.limits.load_seconds: expected a number"),
        ({"timeout": -1}, "smoke.timeout: expected a number above 0"),
        ({"timeout": True}, "smoke.timeout: expected a number above 0"),
        ({"skip": ""}, "smoke.skip: expected the reason"),
        ({"skip": True}, "smoke.skip: expected the reason"),
        ({"skip": "x", "task": "rerank"}, "smoke.skip: expected the reason as a text, and no other key"),
    ],
)
def test_what_cannot_be_said(value: Any, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{sentence}"):
        parse_smoke("smoke", value)

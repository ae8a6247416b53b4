# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What models require of GPUs: what people may write, and what of it a host lacks."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput
from ansible_collections.gpufleet.models.plugins.module_utils._gpu_requirements import (
    Requirements,
    parse_requirements,
    unmet,
)
from tests.unit.stores import MINILM, model_of
from tests.unit.values import json_values, result_or_refusal


def gpu(name: str, total_mib: int, capability: str, state: str = "ok", **other: Any) -> dict[str, Any]:
    """Return a GPU as the facts have it."""
    memory = {"total_mib": total_mib, "free_mib": 0}
    return {"name": name, "memory": memory, "compute_capability": capability, "state": state, "mig": None, **other}


T4 = gpu("T4", 15360, "7.5")
L40 = gpu("L40", 46068, "8.9")
H100 = gpu("H100", 81559, "9.0")
LOST = gpu("H100", 81559, "9.0", state="lost")
ODD = {**gpu("Odd", 0, ""), "name": None, "memory": None, "compute_capability": None}
_PART = {"name": "H100 3g.40gb", "memory": {"total_mib": 40448, "free_mib": 0}}
SPLIT = {**H100, "mig": {"enabled": True, "devices": [_PART, _PART]}}
SPLIT_OFF = {**H100, "mig": {"enabled": False, "devices": []}}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ({}, Requirements()),
        ({"gpus": 2, "gpu_memory_mib": 24576, "compute_capability": "7.5"}, Requirements(2, 24576, (7, 5))),
        ({"compute_capability": 8.0}, Requirements(compute_capability=(8, 0))),
        ({"compute_capability": "12.1"}, Requirements(compute_capability=(12, 1))),
    ],
)
def test_parse(value: Any, expected: Requirements | None) -> None:
    assert parse_requirements("requires", value) == expected


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([], "requires: expected a mapping, found []"),
        ({"gpu_memory_mb": 1}, "requires: unknown key gpu_memory_mb"),
        ({"gpus": 0}, "requires.gpus: expected a whole number from 1 on, found 0"),
        ({"gpus": "two"}, "requires.gpus: expected a whole number from 1 on, found 'two'"),
        ({"gpus": True}, "requires.gpus: expected a whole number from 1 on, found True"),
        ({"gpus": None}, "requires.gpus: expected a whole number from 1 on, found None"),
        ({"gpu_memory_mib": -1}, "requires.gpu_memory_mib: expected a whole number from 0 on, found -1"),
        ({"gpu_memory_mib": 2.5}, "requires.gpu_memory_mib: expected a whole number from 0 on, found 2.5"),
        ({"compute_capability": 8}, "requires.compute_capability: expected a version like '8.0', found 8"),
        (
            {"compute_capability": "sm_80"},
            "requires.compute_capability: expected a version like '8.0', found 'sm_80'",
        ),
    ],
)
def test_parse_refuses(value: Any, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_requirements("requires", value)
    assert str(caught.value) == sentence


@given(json_values)
def test_parse_anything(value: Any) -> None:
    result_or_refusal(parse_requirements, "requires", value)


@pytest.mark.parametrize(
    ("gpus", "requires", "sentence"),
    [
        ([ODD], {"gpu_memory_mib": 1}, None),
        ([T4], {}, None),
        ([T4, H100], {"gpu_memory_mib": 24576}, None),
        ([H100, H100], {"gpus": 2, "compute_capability": "9.0"}, None),
        ([L40], {"compute_capability": "8.9"}, None),
        ([SPLIT], {"gpus": 2, "gpu_memory_mib": 40000}, None),
        ([SPLIT_OFF], {"gpu_memory_mib": 80000}, None),
        ([], {}, "m: expected 1 GPU, found no GPU that works"),
        ([LOST], {}, "m: expected 1 GPU, found no GPU that works"),
        (
            [T4],
            {"gpu_memory_mib": 24576},
            "m: expected 1 GPU with at least 24576 MiB of memory, found T4 (15360 MiB, 7.5)",
        ),
        (
            [T4, H100],
            {"gpus": 2, "gpu_memory_mib": 24576, "compute_capability": "8.0"},
            "m: expected 2 GPUs with at least 24576 MiB of memory and compute capability 8.0, "
            "only 1 of T4 (15360 MiB, 7.5), H100 (81559 MiB, 9.0)",
        ),
        # 10.0 is later than 9.0.
        (
            [H100],
            {"compute_capability": "10.0"},
            "m: expected 1 GPU with at least compute capability 10.0, found H100 (81559 MiB, 9.0)",
        ),
        (
            [SPLIT],
            {"gpu_memory_mib": 80000},
            "m: expected 1 GPU with at least 80000 MiB of memory, "
            "found H100 3g.40gb (40448 MiB, 9.0), H100 3g.40gb (40448 MiB, 9.0)",
        ),
        (
            [ODD],
            {"compute_capability": "7.5"},
            "m: expected 1 GPU with at least compute capability 7.5, found unnamed GPU (unknown memory, 0.0)",
        ),
    ],
)
def test_unmet(gpus: list[dict[str, Any]], requires: dict[str, Any], sentence: str | None) -> None:
    model = model_of("m", MINILM, requires=requires)
    facts = {"gpus": gpus, "problems": []}
    assert unmet([model, model_of("other", MINILM)], facts) == ([sentence] if sentence else [])


def test_what_is_known_of_a_gpu_that_is_missing_is_told() -> None:
    problem = {"reason": "gpu_lost", "gpu": 0, "message": "it has fallen off the bus"}
    (sentence,) = unmet([model_of("m", MINILM, requires={})], {"gpus": [LOST], "problems": [problem]})
    assert sentence == "m: expected 1 GPU, found no GPU that works (GPU 0: it has fallen off the bus)"

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How converted models are tested: beside their source, or alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._derived import Derived
from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput
from ansible_collections.gpufleet.models.plugins.module_utils._lockfile import File
from ansible_collections.gpufleet.models.plugins.module_utils._smoke import Test as SmokeTest
from ansible_collections.gpufleet.models.plugins.module_utils._smoke import digest_of, make_tests
from ansible_collections.gpufleet.models.plugins.module_utils._smoke_judge import Golden, judge
from ansible_collections.gpufleet.models.plugins.module_utils._smoke_pool import Device
from ansible_collections.gpufleet.models.plugins.module_utils._smoke_spec import Smoke
from tests.unit.stores import model_of

CONFIG = json.dumps({"model_type": "bert"}).encode()
FILES = {"config.json": CONFIG, "model.safetensors": b"weights", "tokenizer.json": b"{}"}
MADE = Derived("minilm", "a" * 64, (File("openvino/openvino_model.xml", 6, "1" * 64),), {}, 0.999)
GPU = Device(("GPU-1",), "GPU 0", 1000)


@pytest.fixture
def directory(tmp_path: Path) -> str:
    (tmp_path / "minilm").mkdir()
    (tmp_path / "minilm" / "config.json").write_bytes(CONFIG)
    return str(tmp_path)


def prepare(directory: str, *derived: Derived, golden: Golden | None = None, **smoke: Any) -> list[SmokeTest]:
    model = model_of("minilm", FILES, smoke=smoke, commit="0" * 40)
    return make_tests([model], directory, [golden] if golden else [], derived)


def test_a_conversion_is_tested_after_its_source(directory: str) -> None:
    source, converted = prepare(directory, MADE, limits={"latency_p95_ms": 9, "gpu_memory_mib": 9}, dtype="int8")
    assert [test.label for test in (source, converted)] == ["minilm", "minilm (openvino)"]
    assert source.job is not None
    assert converted.job is not None
    assert (source.job.subject.engine, converted.job.subject.engine) == ("transformers", "openvino")
    assert source.job.subject.weights == ("model.safetensors",)
    assert converted.job.subject.weights == ("openvino/openvino_model.xml",)
    # What a GPU may take says nothing about a CPU.
    assert (source.job.smoke.limits, converted.job.smoke.limits) == ({"latency_p95_ms": 9.0, "gpu_memory_mib": 9.0}, {})
    assert (source.job.dtypes(GPU), converted.job.dtypes(GPU)) == (("int8",), ("int8_asym",))


def test_it_is_tested_alone(directory: str) -> None:
    (test,) = prepare(directory, MADE, engine="openvino", limits={"latency_p95_ms": 9})
    assert (test.derived, test.job and test.job.smoke.limits) == (MADE, {"latency_p95_ms": 9.0})
    with pytest.raises(InvalidInput, match=r"^minilm: engine openvino tests what convert makes, and nothing was made"):
        prepare(directory, engine="openvino")


def test_neither_is_tested(directory: str) -> None:
    (test,) = prepare(directory, MADE, skip="nobody asks it")
    assert test.job is None


def test_a_golden_file_is_for_both(directory: str) -> None:
    golden = Golden("minilm", "0" * 40, "embedding", "float32", ("a", "b"), ((1.0, 0.0), (0.0, 1.0)))
    found = prepare(directory, MADE, golden=golden)
    assert [test.job and test.job.smoke.inputs for test in found] == [("a", "b")] * 2
    assert [test.golden for test in found] == [golden] * 2


def test_another_conversion_is_another_test(directory: str) -> None:
    other = Derived("minilm", "b" * 64, MADE.files, {}, 0.999)
    digests = [digest_of(prepare(directory, *made), [GPU], "/venv") for made in ((), (MADE,), (other,), (MADE,))]
    assert len(set(digests)) == 3
    assert digests[1] == digests[3]


SCORES = [[8.0], [1.0], [0.9], [-4.0]]


@pytest.mark.parametrize(
    ("dtype", "scores", "failed"),
    [
        ("int8_asym", [[8.1], [0.9], [1.0], [-4.0]], []),  # these two are near to each other
        ("int8_asym", [[8.0], [1.0], [-3.9], [-3.8]], ["golden", "golden order"]),
        ("int8_asym", [[8.0], [0.1], [0.0], [0.2]], ["golden", "golden order"]),
        ("float32", [[8.0], [0.99999], [1.0], [-4.0]], ["golden", "golden order"]),
    ],
)
def test_8_bits_may_swap_what_is_near(dtype: str, scores: list[list[float]], failed: list[str]) -> None:
    golden = Golden("m", "0" * 40, "rerank", "float32", ("q", *"abcd"), tuple(map(tuple, SCORES)))
    measured = {
        "loading": {},
        "dtype": dtype,
        "outputs": scores,
        "texts": [],
        "unknown_tokens": 0.0,
        "largest_difference": 0.0,
        "latency_ms": {"median": 1.0, "p95": 2.0},
        "load_seconds": {"cold": 1.0, "warm": 1.0},
        "tokens_per_second": None,
        "gpu_memory_mib": None,
    }
    assert [check.check for check in judge(measured, Smoke(), "rerank", golden) if not check.ok] == failed


def test_what_a_source_computed_in_few_bits_bounds_the_comparison() -> None:
    golden = Golden("m", "0" * 40, "embedding", "nf4", ("a",), ((1.0, 0.0, 0.2),))
    outputs = [[1.0, 0.3, 0.2]]
    measured = {"dtype": "int8_asym", "outputs": outputs, "texts": [], "loading": {}, "unknown_tokens": 0.0}
    measured |= {"largest_difference": 0.0, "latency_ms": {"p95": 1.0}, "load_seconds": {"cold": 1.0}}
    measured |= {"gpu_memory_mib": None, "tokens_per_second": None}
    (check,) = [check for check in judge(measured, Smoke(), "embedding", golden) if check.check == "golden"]
    assert (check.ok, check.expected) == (True, "a cosine of at least 0.93")

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The memory that a model is predicted to take."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._errors import ContentError
from ansible_collections.gpufleet.models.plugins.module_utils._smoke_memory import (
    Choice,
    Weights,
    choices,
    count_values,
    predict_memory,
    stored_dtype,
)
from ansible_collections.gpufleet.models.plugins.module_utils._smoke_model import Subject

PHI3: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "model.embed_tokens.weight": {"dtype": "BF16", "shape": [32064, 512]},
    "model.layers.0.self_attn.qkv_proj.weight": {"dtype": "BF16", "shape": [1536, 512]},
    "model.layers.0.input_layernorm.weight": {"dtype": "BF16", "shape": [512]},
    "lm_head.weight": {"dtype": "BF16", "shape": [32064, 512]},
}


def test_linear_layers_are_told_from_others() -> None:
    assert count_values([PHI3]) == Weights(linear=1536 * 512, rows=1536, other=2 * 32064 * 512 + 512)
    assert count_values([PHI3, PHI3]).rows == 2 * 1536


@pytest.mark.parametrize(
    ("dtype", "mib"), [("float32", 4000), ("bfloat16", 2000), ("float16", 2000), ("int8", 1404), ("nf4", 1110)]
)
def test_memory_by_type(dtype: str, mib: int) -> None:
    """As bitsandbytes has it: a byte or half of one for each value of a linear layer, and its scales."""
    million = 1 << 20
    assert Weights(linear=600 * million, rows=million, other=400 * million).memory_mib(dtype) == mib


# As AutoAWQ, GPTQModel, llm-compressor and bitsandbytes store a layer of 512 x 512, and a norm that stays as it is.
NORM = {"dtype": "F16", "shape": [512]}
PACKED: dict[str, dict[str, Any]] = {
    "awq": {
        "up.qweight": {"dtype": "I32", "shape": [512, 64]},
        "up.qzeros": {"dtype": "I32", "shape": [4, 64]},
        "up.scales": {"dtype": "F16", "shape": [4, 512]},
    },
    "fp8": {
        "up.weight": {"dtype": "F8_E4M3", "shape": [512, 512]},
        "up.weight_scale": {"dtype": "BF16", "shape": [512, 1]},
    },
    "bitsandbytes": {"up.weight": {"dtype": "U8", "shape": [131072, 1]}, "up.known": {"dtype": "BOOL", "shape": [8]}},
}


@pytest.mark.parametrize(
    ("kind", "packed", "values"),
    [("awq", 4 * (512 * 64 + 4 * 64), 4 * 512), ("fp8", 512 * 512, 512), ("bitsandbytes", 131072 + 8, 0)],
)
def test_what_is_quantized_already_is_loaded_as_it_is_stored(kind: str, packed: int, values: int) -> None:
    weights = count_values([{**PACKED[kind], "norm.weight": NORM}])
    assert weights.packed == packed
    assert weights.linear + weights.other == values + 512
    many = [PACKED[kind]] * 4096
    assert count_values(many).memory_mib("bfloat16") == -(-4096 * (packed + 2 * values) // (1 << 20))
    assert count_values(many).memory_mib("float32") == -(-4096 * (packed + 4 * values) // (1 << 20))


def test_the_type_that_it_computes_in_is_none_of_the_packed_ones() -> None:
    assert stored_dtype([PACKED["awq"]]) == "float16"
    assert stored_dtype([PACKED["fp8"]]) == "bfloat16"
    assert stored_dtype([PACKED["bitsandbytes"]]) == "float32"


def write(path: Path, header: object) -> None:
    content = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(content)) + content)


def test_all_shards_count(tmp_path: Path) -> None:
    for name in ("one.safetensors", "two.safetensors"):
        write(tmp_path / name, PHI3)
    subject = Subject("tiny", str(tmp_path), "generation", "transformers", ("one.safetensors", "two.safetensors"), None)
    assert predict_memory(subject, "bfloat16") == -(-2 * 2 * (1536 * 512 + 2 * 32064 * 512 + 512) // (1 << 20))


def test_a_gguf_file_is_kept_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"x" * (3 << 20))
    assert predict_memory(Subject("x", str(tmp_path), "generation", "llama_cpp", ("x.gguf",), None), "float32") == 3


def test_without_known_files_nothing_is_predicted(tmp_path: Path) -> None:
    subject = Subject("x", str(tmp_path), "embedding", "transformers", (), None)
    assert choices(subject, ["float32"], 10) == [Choice("float32", None, 10)]
    assert Choice("float32", None, 10).fits


@pytest.mark.parametrize(("predicted", "available", "fits"), [(10, 10, True), (11, 10, False), (11, None, True)])
def test_what_fits(predicted: int, available: int | None, fits: bool) -> None:
    assert Choice("int8", predicted, available).fits == fits


NO_HEADERS = [b"[]", b"{", b'{"a": {}}', b'{"a": {"shape": "x", "dtype": "F32"}}', b'{"a": {"shape": [1], "dtype": 1}}']


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 8, *(struct.pack("<Q", len(header)) + header for header in NO_HEADERS)]
)
def test_a_file_without_a_header(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    subject = Subject("x", str(tmp_path), "embedding", "transformers", ("x.safetensors",), None)
    with pytest.raises(ContentError, match="has no safetensors header"):
        predict_memory(subject, "float32")

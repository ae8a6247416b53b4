# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the catalog may say about a conversion, and which models it takes."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._catalog import parse_catalog
from ansible_collections.gpufleet.models.plugins.module_utils._convert_spec import (
    Convert,
    parse_convert,
    require_convertible,
)
from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput

FILES = ["config.json", "model.safetensors", "tokenizer.json"]


def test_what_there_is() -> None:
    assert parse_convert("here", {"format": "openvino", "bits": 8}) == Convert("openvino", 8)
    assert parse_convert("here", None) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "here: expected a mapping"),
        ({}, "here: bits, format missing"),
        ({"format": "openvino", "bits": 8, "mode": "sym"}, "here: unknown key mode"),
        ({"format": "onnx", "bits": 8}, "here.format: expected openvino, found 'onnx'"),
        ({"format": "openvino", "bits": 4}, "here.bits: expected 8, found 4"),
        ({"format": "openvino", "bits": True}, "here.bits: expected 8, found True"),
        ({"format": ["openvino"], "bits": 8}, "here.format: expected openvino"),
    ],
)
def test_what_there_is_not(value: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{message}"):
        parse_convert("here", value)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["config.json", "model.safetensors"], "tiny: convert needs tokenizer.json, found config.json"),
        (["config.json", "onnx/model.safetensors", "tokenizer.json"], r"tiny: convert needs \*\.safetensors, found"),
        (["model.gguf"], r"tiny: convert needs config.json, tokenizer.json, \*.safetensors, found model.gguf"),
        ([*FILES, "openvino/openvino_model.xml"], "tiny: convert makes files in openvino/, where the repository has"),
        ([*FILES, "OpenVINO/model.xml"], "tiny: convert makes files in openvino/, where the repository has"),
        ([*FILES, "openvino"], "tiny: convert makes files in openvino/, where the repository has openvino;"),
    ],
)
def test_models_that_cannot_be_converted(paths: list[str], message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{message}"):
        require_convertible("tiny", paths)


def test_a_catalog_is_refused_before_it_is_locked() -> None:
    entry = {"name": "tiny", "repo_id": "acme/tiny", "convert": {"format": "openvino", "bits": 8}}
    (parsed,) = parse_catalog([entry])
    assert parsed.select(FILES) == FILES
    with pytest.raises(InvalidInput, match=r"^tiny: convert needs tokenizer\.json"):
        parsed.select(FILES[:2])
    with pytest.raises(InvalidInput, match=r"^catalog\[0\] \(tiny\)\.convert\.bits: expected 8, found 4"):
        parse_catalog([{**entry, "convert": {"format": "openvino", "bits": 4}}])

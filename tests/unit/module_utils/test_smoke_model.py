# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a model is, by its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput
from ansible_collections.gpufleet.models.plugins.module_utils._smoke_model import Subject, examine_model, weight_files
from ansible_collections.gpufleet.models.plugins.module_utils._smoke_spec import Smoke

FILES = ["config.json", "model.safetensors", "onnx/model.safetensors", "tokenizer.json"]


def examine(directory: Path, config: object, smoke: Smoke = Smoke()) -> Subject:  # noqa: B008
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return examine_model("tiny", str(directory), FILES, smoke)


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ({"model_type": "bert", "architectures": ["BertModel"]}, "embedding"),
        ({"model_type": "bert"}, "embedding"),
        ({"model_type": "xlm-roberta", "architectures": ["XLMRobertaForSequenceClassification"]}, "rerank"),
        (
            {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
            "text2text",
        ),
        ({"model_type": "phi3", "architectures": ["Phi3ForCausalLM"]}, "generation"),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "generation"),
        (
            {
                "model_type": "llava",
                "architectures": ["LlavaForConditionalGeneration"],
                "text_config": {"dtype": "bfloat16"},
                "vision_config": {},
            },
            "image_text",
        ),
    ],
)
def test_the_task_is_in_the_configuration(tmp_path: Path, config: Any, task: str) -> None:
    subject = examine(tmp_path, config)
    assert (subject.task, subject.engine) == (task, "transformers")
    assert subject.weights == ("model.safetensors",)


def test_the_catalog_goes_first(tmp_path: Path) -> None:
    assert examine(tmp_path, {"model_type": "bert"}, Smoke(task="rerank")).task == "rerank"


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({"model_type": "x", "dtype": "bfloat16"}, "bfloat16"),
        ({"model_type": "x", "torch_dtype": "float16"}, "float16"),
        ({"model_type": "x", "text_config": {"torch_dtype": "bfloat16"}}, "bfloat16"),
        ({"model_type": "x", "dtype": "float8"}, None),
        ({"model_type": "x", "text_config": "y"}, None),
        ({"model_type": "x"}, None),
    ],
)
def test_the_type_of_its_weights(tmp_path: Path, config: Any, dtype: str | None) -> None:
    assert examine(tmp_path, config).dtype == dtype


def test_gguf(tmp_path: Path) -> None:
    subject = examine_model("law", str(tmp_path), ["law.Q4_0.gguf", "README.md"], Smoke())
    assert subject == Subject("law", str(tmp_path), "generation", "llama_cpp", ("law.Q4_0.gguf",), None)


@pytest.mark.parametrize(
    ("files", "weights"),
    [
        (["model.safetensors", "consolidated.safetensors"], ("model.safetensors",)),
        (
            ["consolidated.safetensors", "model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors"],
            ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
        ),
        (["other.safetensors", "onnx/model.safetensors"], ("other.safetensors",)),
        (["pytorch_model.bin"], ()),
    ],
)
def test_weights_in_two_layouts_count_once(files: list[str], weights: tuple[str, ...]) -> None:
    assert weight_files(files) == weights


def test_one_of_several_gguf_files(tmp_path: Path) -> None:
    files = ["law.Q4_0-00001-of-00002.gguf", "law.Q4_0-00002-of-00002.gguf", "law.Q8_0.gguf", "config.json"]
    subject = examine_model("law", str(tmp_path), files, Smoke())
    assert (subject.engine, subject.weights) == ("llama_cpp", tuple(files[:2]))
    assert examine_model("law", str(tmp_path), files[2:], Smoke()).weights == ("law.Q8_0.gguf",)


def test_a_head_that_is_not_known_is_not_left_out(tmp_path: Path) -> None:
    config = {"model_type": "bert", "architectures": ["BertForTokenClassification"]}
    with pytest.raises(InvalidInput, match="names BertForTokenClassification, whose head is none that is known here"):
        examine(tmp_path, config)
    assert examine(tmp_path, config, Smoke(task="embedding")).task == "embedding"


def test_what_cannot_be_loaded_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"tiny: expected a config.json, .* found params.json; include it, or say"):
        examine_model("tiny", str(tmp_path), ["params.json"], Smoke())
    with pytest.raises(InvalidInput, match=r"tiny: engine llama_cpp needs a .gguf file, found config.json"):
        examine_model("tiny", str(tmp_path), ["config.json"], Smoke(engine="llama_cpp"))
    with pytest.raises(InvalidInput, match="names no model_type"):
        examine(tmp_path, {"architectures": ["BertModel"]})
    with pytest.raises(InvalidInput, match="expected a mapping"):
        examine(tmp_path, [])
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"config\.json is not valid JSON"):
        examine_model("tiny", str(tmp_path), FILES, Smoke())


AWQ = {"model_type": "llama", "dtype": "float16", "quantization_config": {"quant_method": "awq", "bits": 4}}


def test_what_is_quantized_is_not_quantized_again(tmp_path: Path) -> None:
    assert examine(tmp_path, AWQ, Smoke(dtypes=("float16",))).dtype == "float16"
    with pytest.raises(InvalidInput, match=r"^tiny: smoke.dtype asks for int8, nf4, but .* already, by awq; name "):
        examine(tmp_path, AWQ, Smoke(dtypes=("float16", "int8", "nf4")))

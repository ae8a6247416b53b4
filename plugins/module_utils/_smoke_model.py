# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a model is, by its own files: the task it does, the engine that runs it, and the type of its weights."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ._errors import InvalidInput
from ._smoke_spec import QUANTIZED, Smoke

# What the last part of an architecture's name says about its task.
_HEADS = {
    "ForSequenceClassification": "rerank",
    "ForCausalLM": "generation",
    "LMHeadModel": "generation",
    "ForImageTextToText": "image_text",
}


# Without a head, or with one for training that an embedding does without.
_BODIES = ("Model", "ForMaskedLM", "ForPreTraining")

_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_GGUF_PART = re.compile(r"(.*)-\d{5}-of-\d{5}\.gguf")


@dataclass(frozen=True)
class Subject:
    """A model to be tested.

    :ivar directory: Where its files lie.
    :ivar weights: The files with its weights, below the directory.
    :ivar dtype: The type that its weights have by its own word, or None.
    """

    name: str
    directory: str
    task: str
    engine: str
    weights: tuple[str, ...]
    dtype: str | None


def examine_model(name: str, directory: str, paths: Iterable[str], smoke: Smoke) -> Subject:
    """Return what a model is.

    :param directory: Where its files lie.
    :param paths: Its files, below the directory.
    :param smoke: What the catalog says, which goes before what the files say.
    :raises InvalidInput: When neither tells how to load it.
    """
    files = sorted(paths)
    gguf = [path for path in files if path.endswith(".gguf")]
    others = any(path.endswith((".safetensors", ".bin")) for path in files)
    engine = smoke.engine or ("llama_cpp" if gguf and not others else "transformers")
    if engine == "llama_cpp":
        if not gguf:
            raise InvalidInput(f"{name}: engine llama_cpp needs a .gguf file, found {', '.join(files)}")
        return Subject(name, directory, smoke.task or "generation", engine, _parts(gguf), None)
    if "config.json" not in files:
        raise InvalidInput(
            f"{name}: expected a config.json, which transformers loads a model by, found {', '.join(files)}; "
            "include it, or say why it is not tested with smoke: {skip: REASON}"
        )
    config = _read_config(name, os.path.join(directory, "config.json"))
    _refuse_second_quantization(name, config, smoke)
    return Subject(name, directory, smoke.task or _task(name, config), engine, weight_files(files), _dtype(config))


def _refuse_second_quantization(name: str, config: Mapping[str, Any], smoke: Smoke) -> None:
    """Require that weights which are quantized in their files are loaded as they are."""
    quantized = config.get("quantization_config")
    made = [dtype for dtype in smoke.dtypes if dtype in QUANTIZED]
    if made and isinstance(quantized, Mapping):
        method = quantized.get("quant_method", "a method that it does not name")
        raise InvalidInput(
            f"{name}: smoke.dtype asks for {', '.join(made)}, but config.json says that its weights are quantized "
            f"already, by {method}; name float16 or bfloat16, the type that it computes in"
        )


def weight_files(paths: Iterable[str]) -> tuple[str, ...]:
    """Return the files that transformers reads a model's weights from: the same are often there in one more layout."""
    files = sorted(path for path in paths if path.endswith(".safetensors") and "/" not in path)
    shards = tuple(path for path in files if _SHARD.fullmatch(path))
    whole = ("model.safetensors",) if "model.safetensors" in files else ()
    return whole or shards or tuple(files)


def _parts(gguf: list[str]) -> tuple[str, ...]:
    """Return the first model of several GGUF files, with all of its parts; it is opened by the first one."""
    part = _GGUF_PART.fullmatch(gguf[0])
    return tuple(path for path in gguf if part and path.startswith(part[1])) or (gguf[0],)


def _read_config(name: str, path: str) -> Mapping[str, Any]:
    try:
        with open(path, encoding="utf-8") as stream:
            config = json.load(stream)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{name}: config.json is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise InvalidInput(f"{name}: config.json: expected a mapping")
    return config


def _task(name: str, config: Mapping[str, Any]) -> str:
    if isinstance(config.get("vision_config"), dict) and "text_config" in config:
        return "image_text"
    if config.get("is_encoder_decoder") is True:
        return "text2text"
    named = config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    for ending, task in _HEADS.items():
        if architecture.endswith(ending):
            return task
    if "model_type" not in config:
        raise InvalidInput(f"{name}: config.json names no model_type; name the task in its smoke test")
    if architecture and not architecture.endswith(_BODIES):
        raise InvalidInput(
            f"{name}: config.json names {architecture}, whose head is none that is known here; name the task in its "
            "smoke test, or say why it is not tested with smoke: {skip: REASON}"
        )
    return "embedding"


def _dtype(config: Mapping[str, Any]) -> str | None:
    text_config = config.get("text_config")
    for part in (config, text_config if isinstance(text_config, dict) else {}):
        dtype = part.get("dtype") or part.get("torch_dtype")
        if dtype in ("float32", "float16", "bfloat16"):
            return str(dtype)
    return None

"""Small, valid model directories, the same bytes each time they are made.

Needs ``numpy``, ``safetensors`` and ``gguf``; the Hub itself does not.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quantize
from safetensors.numpy import save_file

_RANDOM_BLOCK = 8 * 1024 * 1024


def sharded_safetensors(directory: Path | str, *, shards: int = 3, hidden: int = 64, seed: int = 1) -> Path:
    """Write a transformers model in so many safetensors shards, with index, configuration and tokenizer files.

    A shard has ``4 * hidden * hidden`` bytes of weights, and a header.
    """
    directory = _made(directory)
    random = np.random.default_rng(seed)
    weight_map = {}
    for number in range(1, shards + 1):
        name = f"model-{number:05}-of-{shards:05}.safetensors"
        tensor = f"model.layers.{number - 1}.mlp.up_proj.weight"
        weights = random.standard_normal((hidden, hidden), dtype=np.float32)
        save_file({tensor: weights}, directory / name, metadata={"format": "pt"})
        weight_map[tensor] = name
    index = {"metadata": {"total_size": shards * hidden * hidden * 4}, "weight_map": weight_map}
    _write_json(directory / "model.safetensors.index.json", index)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "model_type": "llama",
        "num_hidden_layers": shards,
        "torch_dtype": "float32",
        "vocab_size": 256,
    }
    _write_json(directory / "config.json", config)
    _write_json(directory / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    vocabulary = {chr(33 + index): index for index in range(94)}
    tokenizer = {"version": "1.0", "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}
    _write_json(directory / "tokenizer.json", tokenizer)
    _write_json(directory / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    (directory / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# A tiny model\n", encoding="utf-8")
    return directory


def gguf(directory: Path | str, name: str = "tiny-Q4_0.gguf", *, hidden: int = 64, seed: int = 1) -> Path:
    """Write a GGUF file with a few tensors, quantized to Q4_0, and return its path."""
    path = _made(directory) / name
    random = np.random.default_rng(seed)
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_block_count(1)
    for tensor in ("token_embd.weight", "blk.0.attn_q.weight", "blk.0.ffn_up.weight"):
        weights = random.standard_normal((hidden, hidden), dtype=np.float32)
        packed = quantize(weights, GGMLQuantizationType.Q4_0)
        writer.add_tensor(tensor, packed, raw_dtype=GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def big_file(path: Path | str, size: int, seed: int = 1) -> Path:
    """Write ``size`` pseudo-random bytes, in which no two places are alike, and return the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.Generator(np.random.SFC64(seed))
    with path.open("wb") as stream:
        for start in range(0, size, _RANDOM_BLOCK):
            words = random.integers(0, 2**64, size=_RANDOM_BLOCK // 8, dtype=np.uint64)
            stream.write(words.tobytes()[: size - start])
    return path


def _made(directory: Path | str) -> Path:
    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    return path


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")

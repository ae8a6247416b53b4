"""The models that the factory makes are valid to the libraries that read such files, and always the same."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from safetensors.numpy import load_file

from tests.hub import factory


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_sharded_safetensors(tmp_path: Path) -> None:
    directory = factory.sharded_safetensors(tmp_path / "one", shards=2, hidden=16)
    index = json.loads((directory / "model.safetensors.index.json").read_text(encoding="utf-8"))
    tensors = {name: load_file(directory / shard)[name] for name, shard in index["weight_map"].items()}
    assert len(tensors) == 2
    assert all(tensor.shape == (16, 16) for tensor in tensors.values())
    assert sum(tensor.nbytes for tensor in tensors.values()) == index["metadata"]["total_size"]
    assert json.loads((directory / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"] == 2
    assert content(directory) == content(factory.sharded_safetensors(tmp_path / "again", shards=2, hidden=16))
    assert content(directory) != content(factory.sharded_safetensors(tmp_path / "other", shards=2, hidden=16, seed=2))


def test_gguf(tmp_path: Path) -> None:
    path = factory.gguf(tmp_path / "one")
    reader = GGUFReader(path)
    field = reader.get_field("general.architecture")
    assert field is not None
    assert field.contents() == "llama"
    assert [tensor.tensor_type.name for tensor in reader.tensors] == ["Q4_0"] * 3
    assert all(np.any(tensor.data) for tensor in reader.tensors)
    assert path.read_bytes() == factory.gguf(tmp_path / "again").read_bytes()
    assert path.read_bytes() != factory.gguf(tmp_path / "other", seed=2).read_bytes()


def test_big_file(tmp_path: Path) -> None:
    size = 9 * 1024 * 1024 + 13
    data = factory.big_file(tmp_path / "sub" / "one", size).read_bytes()
    assert len(data) == size
    assert len(zlib.compress(data, 1)) > size * 0.99
    block = 64 * 1024
    blocks = [data[start : start + block] for start in range(0, size, block)]
    assert len(set(blocks)) == len(blocks)
    assert data == factory.big_file(tmp_path / "again", size).read_bytes()
    assert data != factory.big_file(tmp_path / "other", size, seed=2).read_bytes()

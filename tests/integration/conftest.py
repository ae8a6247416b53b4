# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all integration tests share: a Hub with two models, and a host that serves the small one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.hub import Hub, factory
from tests.integration.harness import BLOCK, TOKEN, Host, locked


def write_weights(path: Path, blocks: float, seed: int = 1) -> Path:
    """Write a valid safetensors file whose size is about so many blocks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.Generator(np.random.SFC64(seed))
    words = random.integers(0, 2**64, size=int(blocks * BLOCK) // 8, dtype=np.uint64)
    save_file({"weight": words.view("float64")}, path)
    return path


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model: shards, a GGUF file, a subdirectory, an empty file."""
    directory = factory.sharded_safetensors(tmp_path_factory.mktemp("tiny"))
    factory.gguf(directory)
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}\n', encoding="utf-8")
    (directory / "1_Pooling" / "empty.txt").touch()
    return directory


@pytest.fixture(scope="session")
def big_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a file of three blocks, the last one not full."""
    directory = tmp_path_factory.mktemp("big")
    write_weights(directory / "weights.safetensors", 2.5)
    (directory / "config.json").write_text('{"model_type": "big", "vocab_size": 32000}\n', encoding="utf-8")
    return directory


@pytest.fixture
def hub(tiny_directory: Path, big_directory: Path) -> Iterator[Hub]:
    """A Hub with both models."""
    with Hub(tokens=[TOKEN]) as hub:
        hub.add_repo("acme/tiny", tiny_directory)
        hub.add_repo("acme/big", big_directory)
        yield hub


@pytest.fixture
def tiny(hub: Hub, tiny_directory: Path) -> dict[str, Any]:
    """The small model, as a lock has it."""
    return locked(hub, "tiny", "acme/tiny", tiny_directory)


@pytest.fixture
def big(hub: Hub, big_directory: Path) -> dict[str, Any]:
    """The model of several blocks, as a lock has it."""
    return locked(hub, "big", "acme/big", big_directory)


@pytest.fixture
def host(hub: Hub, tmp_path: Path) -> Host:
    """A host with nothing on it."""
    return Host(hub, tmp_path)


@pytest.fixture
def serving(host: Host, tiny: dict[str, Any]) -> Host:
    """A host whose generation 1 is the small model, which it serves."""
    host.ok(host.generation(tiny))
    host.hub.stats.reset()
    return host

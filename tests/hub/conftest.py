"""What all tests of the Hub share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import Hub, factory
from tests.hub.client import fetch

REPO = "acme/tiny"
TOKEN = "hf_validtokenofthetests"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a small model: files in git and in LFS, a subdirectory, names that need quoting."""
    directory = factory.sharded_safetensors(tmp_path_factory.mktemp("model"))
    factory.gguf(directory)
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}\n', encoding="utf-8")
    (directory / "1_Pooling" / "empty.txt").touch()
    (directory / "extra files").mkdir()
    (directory / "extra files" / "größe+100% #1.json").write_text("{}\n", encoding="utf-8")
    factory.big_file(directory / "extra files" / "größe+100% #1.bin", 5_000)
    return directory


@pytest.fixture
def hub(model: Path) -> Iterator[Hub]:
    """A Hub with the model in it."""
    with Hub(tokens=[TOKEN]) as hub:
        hub.add_repo(REPO, model)
        yield hub


@pytest.fixture
def gguf_file(model: Path) -> bytes:
    """The content of a file in LFS."""
    return (model / "tiny-Q4_0.gguf").read_bytes()


@pytest.fixture
def gguf_link(hub: Hub) -> str:
    """A signed address of that file."""
    location = fetch(f"{hub.endpoint}/{REPO}/resolve/main/tiny-Q4_0.gguf").headers["Location"]
    hub.stats.reset()
    return location

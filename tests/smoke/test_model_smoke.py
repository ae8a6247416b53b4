# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The smoke test: real models through the real libraries, and everything that can be wrong with them."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hub import Hub
from tests.integration.harness import CHECKOUT, Host, ModuleProcess, Result, assert_sentence, wait_until
from tests.smoke import HELLO_WORLD, faults
from tests.smoke.conftest import MINILM

INFERENCE = CHECKOUT / ".cache" / "inference"
INFERENCE_CUDA = CHECKOUT / ".cache" / "inference-cuda"


class SmokeHost(Host):
    """A host that stages models and tests them on its CPU."""

    def stage(self, *sources: Path, **smoke: Any) -> None:
        """Stage the models in these directories; each is tested as ``smoke`` says."""
        for source in sources:
            if f"acme/{source.name}" not in self.hub.repositories:
                self.hub.add_repo(f"acme/{source.name}", source)
        catalog = [
            {
                "name": source.name,
                "repo_id": f"acme/{source.name}",
                "allow_code": True,
                # Less than a test waits for: what hangs is named.
                "smoke": smoke if "skip" in smoke else {"timeout": 120, **smoke},
            }
            for source in sources
        ]
        self.ok(self.lock(*catalog))
        self.ok(self.generation(*self.locked_models(), state="staged"))

    def start_smoke(self, **arguments: Any) -> ModuleProcess:
        usual = {"venv": str(INFERENCE), "cpu": "allow", "generation": 1}
        return self.start("model_smoke", **{**usual, **arguments})

    def smoke(self, **arguments: Any) -> Result:
        return self.start_smoke(**arguments).finish(timeout=240)

    def passes(self, **arguments: Any) -> dict[str, dict[str, Any]]:
        """Require that every model passes, and return the outcomes by name."""
        result = self.ok(self.smoke(**arguments))
        assert not result.changed
        assert result.failures == []
        assert all(model["ok"] for model in result.models), result.models
        return {model["name"]: model for model in result.models}


@pytest.fixture
def host(hub: Hub, tmp_path: Path) -> SmokeHost:
    return SmokeHost(hub, tmp_path)


Planted = Callable[..., Path]


@pytest.fixture
def planted(models: dict[str, Path], tmp_path: Path) -> Planted:
    """Return a function that makes a copy of a model with a fault in it, named after both."""

    def plant(name: str, fault: Callable[..., None], *arguments: Path) -> Path:
        directory = faults.copy(models[name], tmp_path / f"{name}.{fault.__name__}")
        fault(directory, *arguments)
        return directory

    return plant


# Models that compute.


def test_every_kind_of_model(host: SmokeHost, models: dict[str, Path]) -> None:
    tasks = {
        "bert": "embedding",
        "xlm_roberta": "rerank",
        "t5": "text2text",
        "phi3": "generation",
        "phi3_sharded": "generation",
        "llama_gguf": "generation",
        "llava": "image_text",
    }
    host.stage(*(models[name] for name in tasks))
    outcomes = host.passes()
    assert {name: outcome["task"] for name, outcome in outcomes.items()} == tasks
    for name, outcome in outcomes.items():
        assert outcome["device"] == "CPU"
        assert outcome["load_seconds"]["cold"] > 0
        assert outcome["load_seconds"]["warm"] > 0
        assert 0 < outcome["latency_ms"]["median"] <= outcome["latency_ms"]["p95"]
        assert (outcome["tokens_per_second"] is not None) == (tasks[name] not in ("embedding", "rerank"))
        assert outcome["gpu_memory_mib"] is None
        assert outcome["host_memory_mib"] > 100
        assert outcome["engine"] == ("llama_cpp" if name == "llama_gguf" else "transformers")
    manifest = json.loads((host.root / "generations/1/.generation.json").read_text(encoding="utf-8"))
    assert manifest["smoke"]["passed"]
    assert [model["name"] for model in manifest["smoke"]["models"]] == sorted(tasks)


@pytest.mark.cuda
def test_pixtral_with_the_packages_of_a_host_with_a_gpu(host: SmokeHost, models: dict[str, Path]) -> None:
    host.stage(models["llava_pixtral"], models[MINILM])
    outcomes = host.passes(venv=str(INFERENCE_CUDA))
    assert outcomes["llava_pixtral"]["task"] == "image_text"
    assert outcomes["llava_pixtral"]["tokens_per_second"] > 0
    assert outcomes[MINILM]["task"] == "embedding"
    # Without torchvision, what is missing is said.
    (failure,) = host.smoke().failures
    assert "llava_pixtral" in failure
    assert "Torchvision" in failure


def test_what_minilm_puts_out(host: SmokeHost, models: dict[str, Path]) -> None:
    host.stage(models[MINILM], expect={"dimension": 384})
    golden = host.passes(outputs=True)[MINILM]["golden"]
    assert golden["inputs"][0] == "Hello world"
    assert golden["outputs"][0][:4] == pytest.approx(HELLO_WORLD, abs=2e-6)
    assert host.passes(golden=[golden])
    golden["outputs"][3] = golden["outputs"][4]
    assert_sentence(host.smoke(golden=[golden]), f"{MINILM}: golden: expected a cosine of at least 0.99999, found 0.")
    assert_sentence(
        host.smoke(golden=[{**golden, "commit": "0" * 40}]), "is of commit 000", "the generation has", "again"
    )
    assert_sentence(host.smoke(golden=[{**golden, "task": "rerank"}]), "for another task or other inputs")


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "nf4"])
def test_smaller_types(host: SmokeHost, models: dict[str, Path], dtype: str) -> None:
    """Close enough to the outputs of the model as it is, and not the same."""
    host.stage(models[MINILM])
    golden = host.passes(outputs=True)[MINILM]["golden"]
    lock = host.locked_models()
    lock[0]["smoke"] = {"dtype": dtype}
    outcome = host.passes(models=lock, golden=[golden], outputs=True)[MINILM]
    assert outcome["dtype"] == dtype
    assert outcome["golden"]["outputs"] != golden["outputs"]


def test_what_was_passed_is_not_repeated(host: SmokeHost, models: dict[str, Path]) -> None:
    host.stage(models["bert"])
    assert host.ok(host.smoke(rerun=False)).tested
    again = host.ok(host.smoke(rerun=False))
    assert not again.tested
    assert again.models[0]["checks"]
    lock = host.locked_models()
    lock[0]["smoke"] = {"expect": {"dimension": 63}}
    assert_sentence(host.smoke(rerun=False, models=lock), "bert: dimension: expected 63, found 64")
    assert_sentence(host.smoke(rerun=False, models=lock), "bert: dimension: expected 63, found 64")


def test_a_model_is_left_out_for_a_reason(host: SmokeHost, models: dict[str, Path]) -> None:
    host.stage(models["bert"], skip="an adapter")
    assert host.passes()["bert"]["skipped"] == "an adapter"


def test_a_host_without_a_gpu(host: SmokeHost, models: dict[str, Path]) -> None:
    host.stage(models["bert"])
    assert_sentence(host.smoke(cpu="refuse"), "expected a GPU that works, found none: ")
    skipped = host.ok(host.smoke(cpu="skip"))
    assert not skipped.tested
    assert skipped.msg.startswith("nothing was tested: ")
    would = host.ok(host.smoke(_ansible_check_mode=True))
    assert not would.tested
    assert would.msg == "would test bert on the CPU"


# Models that do not.


def test_faults_that_show(host: SmokeHost, planted: Planted, models: dict[str, Path]) -> None:
    """Each is named, and the model beside them passes: one process runs them all."""
    expected = {
        planted("xlm_roberta", faults.missing_head): "weights: expected every weight of the model in its files, found "
        "missing keys classifier.dense.bias, classifier.dense.weight, classifier.out_proj.bias and 1 more",
        planted("xlm_roberta", faults.wrong_head): "of the model in its files, found mismatched keys",
        planted("phi3", faults.nan_weights): "finite: expected finite numbers alone, found 6 of 6 outputs with others",
        planted("bert", faults.nan_weights): "finite: expected finite numbers alone, found 6 of 6 outputs with others",
        planted("t5", faults.missing_head): "missing keys those of the head, for which the embedding was taken",
        planted("bert", faults.missing_tokenizer): "tokens: expected a tokenizer that knows the inputs, found ",
        planted("phi3", faults.missing_tokenizer): "float32 on CPU: load: ",
        planted("phi3_sharded", faults.missing_shard): "float32 on CPU: load: ",
        planted("t5", faults.panicking_tokenizer): "float32 on CPU: run: PanicException",
    }
    host.stage(*expected, models["bert"])
    result = host.smoke()
    assert result.failed
    assert result.msg == f"generation 1 does not compute as it must: {'; '.join(result.failures)}"
    told = dict(failure.split(": ", 1) for failure in result.failures)
    assert set(told) == {directory.name for directory in expected}
    for directory, sentence in expected.items():
        assert sentence in told[directory.name], told[directory.name]


def test_faults_that_the_golden_file_shows(host: SmokeHost, planted: Planted, models: dict[str, Path]) -> None:
    """Finite, the same each time, and wrong: the real model, and one that reads other words than it is given."""
    host.stage(models[MINILM], models["bert"])
    right = host.passes(outputs=True)
    expected = {
        planted(MINILM, faults.zeroed_layer): "golden: expected a cosine of at least 0.99999, found 0.",
        planted(MINILM, faults.noise): "golden: expected a cosine of at least 0.99999, found 0.99",
        planted(MINILM, faults.wrong_attention_heads): "golden: expected a cosine of at least 0.99999, found 0.",
        planted(MINILM, faults.wrong_architecture): "golden: expected a cosine of at least 0.99999, found 0.",
        planted(MINILM, faults.exponent_bit): "finite: expected finite numbers alone",
        planted("bert", faults.foreign_tokenizer, models["phi3"]): "golden: expected a cosine of at least 0.99999",
    }
    host.stage(*expected)
    commits = {model["name"]: model["commit"] for model in host.locked_models()}
    golden = [
        {**right[directory.name.partition(".")[0]]["golden"], "name": name, "commit": commits[name]}
        for directory in expected
        for name in [directory.name]
    ]
    result = host.smoke(generation=2, golden=golden)
    told = dict(failure.split(": ", 1) for failure in result.failures)
    for directory, sentence in expected.items():
        assert sentence in told[directory.name], told


def test_code_of_the_repository_is_not_run(host: SmokeHost, planted: Planted, tmp_path: Path) -> None:
    host.stage(planted("bert", faults.remote_code, tmp_path / "marker"))
    assert_sentence(host.smoke(), "bert.remote_code: float32 on CPU: import: ValueError", "contains custom code")
    assert not (tmp_path / "marker").exists()


def test_limits(host: SmokeHost, models: dict[str, Path]) -> None:
    host.stage(models["phi3"], limits={"min_tokens_per_second": 1e8})
    assert_sentence(host.smoke(), "phi3: tokens_per_second: expected at least 1e+08, found ")


def test_one_that_hangs_does_not_keep_the_others(host: SmokeHost, models: dict[str, Path], planted: Planted) -> None:
    host.stage(planted("bert", faults.hanging_tokenizer), models["t5"], models["xlm_roberta"])
    lock = host.locked_models()
    next(model for model in lock if model["name"].startswith("bert"))["smoke"] = {"timeout": 30}
    result = host.smoke(models=lock)
    assert_sentence(result, "bert.hanging_tokenizer: float32 on CPU: ", "was not done after 30 s")
    assert [model["name"] for model in result.models if model["ok"]] == ["t5", "xlm_roberta"]
    wait_until(lambda: host.processes(str(INFERENCE)) == [], "nothing runs any more")


def test_a_crash_does_not_keep_the_others(host: SmokeHost, models: dict[str, Path], tmp_path: Path) -> None:
    planted = faults.copy(models["llama_gguf"], tmp_path / "planted")
    for path in planted.glob("*.gguf"):
        faults.crashing_gguf(path)
    host.stage(models["bert"], planted, models["xlm_roberta"])
    result = host.smoke()
    assert_sentence(result, "planted: float32 on CPU: the process was ended by SIGSEGV")
    assert [model["ok"] for model in result.models] == [True, False, True]


def test_memory_that_runs_out_leads_to_the_next_type(host: SmokeHost, models: dict[str, Path], tmp_path: Path) -> None:
    """Enough memory for the libraries, and not for a vocabulary of millions in any type: two others are tried."""
    huge = faults.copy(models["bert"], tmp_path / "huge")
    config = json.loads((huge / "config.json").read_text(encoding="utf-8"))
    (huge / "config.json").write_text(json.dumps({**config, "vocab_size": 30_000_000}), encoding="utf-8")
    host.stage(huge, dtype=["float32", "float16", "bfloat16", "int8"])
    host.prefix = ("prlimit", "--data=1500000000")
    result = host.smoke()
    attempts = result.models[0]["attempts"]
    assert [attempt["dtype"] for attempt in attempts] == ["float32", "float16", "bfloat16"]
    assert {attempt["reason"] for attempt in attempts} == {"out_of_memory"}, attempts


def test_nothing_is_left_running(host: SmokeHost, planted: Planted) -> None:
    host.stage(planted("bert", faults.hanging_tokenizer))
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = host.start_smoke()
        wait_until(lambda: len(host.processes(str(INFERENCE))) == 1, "the models are being run")
        process.send(number)
        if number == signal.SIGTERM:
            assert_sentence(process.finish(), "stopped")
        else:
            process.kill()
        wait_until(lambda: host.processes(str(INFERENCE)) == [], "nothing runs any more")


def test_an_environment_that_is_missing(host: SmokeHost, models: dict[str, Path], tmp_path: Path) -> None:
    host.stage(models["bert"])
    assert_sentence(host.smoke(venv=str(tmp_path / "nothing")), "nothing/bin/python is not there", "python_venv")
    subprocess.run(["python3", "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    result = host.smoke(venv=str(tmp_path / "bare"))
    assert_sentence(result, "bert: float32 on CPU: import: ModuleNotFoundError: No module named 'torch'")
    assert result.models[0]["attempts"][0]["reason"] == "missing_package"

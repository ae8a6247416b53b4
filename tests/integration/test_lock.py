# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``model_lock``: from a catalog to a lock, whatever the Hub answers."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.hub import Hub
from tests.hub.faults import (
    BlackHole,
    CloseConnection,
    ExtraFiles,
    Fault,
    Flip,
    Html,
    HugeJson,
    MalformedJson,
    RedirectLoop,
    Reset,
    Status,
    Trickle,
    Truncate,
    WrongChecksum,
    WrongSize,
    rate_limited,
)
from tests.integration.harness import TOKEN, Host, assert_sentence, sha256sums

TINY = {"name": "tiny", "repo_id": "acme/tiny"}
BIG = {"name": "big", "repo_id": "acme/big"}

# Every question that locking asks: the commit, the tree, the content of a small file.
QUESTIONS = {"commit": "/api/*/revision/*", "tree": "*/tree/*", "file": "*/resolve/*/config.json"}


def tree_with(directory: Path, target: Path, **files: str) -> Path:
    """Return a copy of a model's directory with more files; ``__`` in a name stands for a dot."""
    shutil.copytree(directory, target)
    for name, content in files.items():
        (target / name.replace("__", ".")).write_text(content, encoding="utf-8")
    return target


def test_every_file_has_the_digest_that_sha256sum_says(
    host: Host, hub: Hub, tiny_directory: Path, big_directory: Path
) -> None:
    result = host.ok(host.lock(TINY, BIG))
    assert result.changed
    lock = json.loads(host.lock_file.read_text(encoding="utf-8"))
    assert lock["lock_version"] == 1
    assert [model["name"] for model in lock["models"]] == ["big", "tiny"]
    for model, directory in zip(lock["models"], (big_directory, tiny_directory), strict=True):
        commit = hub.repositories[model["repo_id"]].resolve("main")
        assert commit is not None
        assert model["commit"] == commit.id
        assert {file["path"]: file["sha256"] for file in model["files"]} == sha256sums(directory)
        assert all(file["size"] == (directory / file["path"]).stat().st_size for file in model["files"])
    assert sorted((model["name"], model["action"]) for model in result.models) == [("big", "added"), ("tiny", "added")]
    # No content of a large file is needed.
    assert hub.stats.requests("cdn") == 0


def test_same_input_same_bytes(host: Host, tmp_path: Path) -> None:
    host.ok(host.lock(TINY, BIG))
    first = host.lock_file.read_bytes()
    status = host.lock_file.stat()
    assert not host.ok(host.lock(BIG, TINY)).changed
    assert host.lock_file.stat().st_mtime_ns == status.st_mtime_ns
    other = tmp_path / "other.json"
    host.ok(host.lock(BIG, TINY, dest=str(other)))
    assert other.read_bytes() == first
    assert first.endswith(b"}\n")


def test_pins_are_kept_until_upgraded(host: Host, hub: Hub, tiny_directory: Path, tmp_path: Path) -> None:
    host.ok(host.lock(TINY, BIG))
    first = host.lock_file.read_bytes()
    pins = {model["name"]: model["commit"] for model in host.locked_models()}
    new = hub.repositories["acme/tiny"].add_commit(tree_with(tiny_directory, tmp_path / "new", new__txt="new\n"))

    assert not host.ok(host.lock(TINY, BIG)).changed
    assert not host.ok(host.lock(TINY, BIG, upgrade=["big"])).changed
    assert host.lock_file.read_bytes() == first
    for upgrade in (["tiny"], "tiny,big", True, "yes"):
        host.lock_file.write_bytes(first)
        predicted = host.ok(host.lock(TINY, BIG, upgrade=upgrade, _ansible_check_mode=True, _ansible_diff=True))
        assert predicted.changed
        assert host.lock_file.read_bytes() == first
        done = host.ok(host.lock(TINY, BIG, upgrade=upgrade, _ansible_diff=True))
        assert predicted.diff == done.diff
        assert host.locked_models()[1]["commit"] == new.id
        assert host.locked_models()[0]["commit"] == pins["big"]
    # Readable: what a reviewer sees are the lines of the lock that change.
    before, after = done.diff["before"].splitlines(), done.diff["after"].splitlines()
    added = [line.strip() for line in after if line not in before]
    assert f'"commit": "{new.id}",' in added
    assert '"path": "new.txt",' in added
    assert len(added) <= 4
    assert_sentence(host.lock(TINY, BIG, upgrade=["nobody"]), "upgrade", "nobody")


def test_what_changes_an_entry(host: Host, hub: Hub, tiny_directory: Path, tmp_path: Path) -> None:
    """Patterns take effect on the pinned commit; another revision or repository is another pin."""
    host.ok(host.lock(TINY))
    pin = host.locked_models()[0]["commit"]
    other = hub.repositories["acme/tiny"].add_commit(
        tree_with(tiny_directory, tmp_path / "new", new__txt="new\n"), "release"
    )
    hub.repositories["acme/tiny"].add_tag("v1", other)
    host.ok(host.lock({**TINY, "include": ["*.json"]}))
    assert host.locked_models()[0]["commit"] == pin
    assert {file["path"].rpartition(".")[2] for file in host.locked_models()[0]["files"]} == {"json"}
    for revision in ("release", "v1", other.id, "refs/heads/release"):
        host.ok(host.lock({**TINY, "revision": revision}))
        assert host.locked_models()[0]["commit"] == other.id
    host.ok(host.lock({**TINY, "requires": {"gpus": 1}, "smoke": {"inputs": ["ä"]}, "revision": "v1"}))
    assert host.locked_models()[0]["requires"] == {"gpus": 1}
    removed = host.ok(host.lock(BIG))
    assert {(model["name"], model["action"]) for model in removed.models} == {("big", "added"), ("tiny", "removed")}


def test_patterns(host: Host) -> None:
    host.ok(host.lock({**TINY, "include": ["*.safetensors", "1_Pooling/*"], "exclude": ["*-00002-*", "*.txt"]}))
    assert [file["path"] for file in host.locked_models()[0]["files"]] == [
        "1_Pooling/config.json",
        "model-00001-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
    ]
    for entry in ({**TINY, "include": ["*.onnx"]}, {**TINY, "exclude": ["*"]}):
        result = host.lock(entry)
        assert_sentence(result, "tiny", "acme/tiny", "tiny-Q4_0.gguf", "1_Pooling/config.json")


@pytest.mark.parametrize(
    ("name", "switch"),
    [
        *((f"model{suffix}", "allow_pickle") for suffix in (".bin", ".pth", ".PKL", ".ckpt")),
        ("modeling_x.py", "allow_code"),
    ],
)
def test_what_could_run_code_is_refused(
    host: Host, hub: Hub, tiny_directory: Path, tmp_path: Path, name: str, switch: str
) -> None:
    hub.add_repo("acme/risky", tree_with(tiny_directory, tmp_path / "risky", **{name.replace(".", "__"): "x"}))
    entry = {"name": "risky", "repo_id": "acme/risky"}
    assert_sentence(host.lock(entry), "risky", name, switch, "exclude")
    assert not host.lock_file.exists()
    host.ok(host.lock({**entry, "exclude": [name]}))
    host.ok(host.lock({**entry, switch: True}))
    assert name in {file["path"] for file in host.locked_models()[0]["files"]}


def test_what_the_scan_marks_as_unsafe_is_refused(host: Host, hub: Hub) -> None:
    hub.repositories["acme/tiny"].set_security("tiny-Q4_0.gguf", "unsafe")
    hub.repositories["acme/tiny"].set_security("config.json", "queued")
    assert_sentence(host.lock(TINY), "tiny", "tiny-Q4_0.gguf", "unsafe", "exclude")
    host.ok(host.lock({**TINY, "exclude": ["*.gguf"]}))


def test_what_is_gated_private_or_missing_is_named(host: Host, hub: Hub, tiny_directory: Path) -> None:
    hub.add_repo("acme/gated", tiny_directory, gated=True, readers=[TOKEN])
    hub.add_repo("acme/private", tiny_directory, private=True, readers=[TOKEN])
    hub.tokens.add("hf_another")
    for entry, token, fragments in (
        ({"name": "m", "repo_id": "acme/gated"}, None, ("acme/gated", "gated", "terms", "token")),
        ({"name": "m", "repo_id": "acme/gated"}, "hf_another", ("acme/gated", "gated", "terms")),
        ({"name": "m", "repo_id": "acme/private"}, None, ("acme/private", "private", "token")),
        ({"name": "m", "repo_id": "acme/private"}, "hf_another", ("acme/private", "private", "token")),
        ({"name": "m", "repo_id": "acme/none"}, None, ("acme/none", "missing", "repo_id")),
        ({"name": "m", "repo_id": "acme/tiny", "revision": "no-such"}, None, ("acme/tiny", "no-such", "revision")),
        ({"name": "m", "repo_id": "acme/tiny", "revision": "0" * 40}, None, ("acme/tiny", "0" * 40)),
        ({"name": "m", "repo_id": "acme/tiny"}, "hf_invalid", ("acme/tiny", "token")),
    ):
        start = time.monotonic()
        assert_sentence(host.lock(entry, token=token), *fragments)
        assert time.monotonic() - start < 5
    assert not host.lock_file.exists()
    host.ok(host.lock({"name": "m", "repo_id": "acme/gated"}, {"name": "p", "repo_id": "acme/private"}, token=TOKEN))
    assert TOKEN not in host.lock_file.read_text(encoding="utf-8")


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
@pytest.mark.parametrize(
    "make",
    [
        lambda path: BlackHole(path=path),
        lambda path: Trickle(0.3, path=path),
        lambda path: rate_limited(600, path=path),
        lambda path: RedirectLoop(path=path),
        lambda path: Html(path=path),
    ],
    ids=["black hole", "trickle", "429", "redirect loop", "portal"],
)
def test_ends_within_its_timeout(host: Host, hub: Hub, question: str, make: Any) -> None:
    with hub.fault(make(question)) as fault:
        start = time.monotonic()
        assert_sentence(host.lock(BIG, timeout=1), "acme/big", hub.endpoint)
        # Far more than it needs, far less than a call that hangs.
        assert time.monotonic() - start < 20
        assert fault.applied
    assert not host.lock_file.exists()


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
@pytest.mark.parametrize(
    "make",
    [
        lambda path: Status(500, times=2, path=path),
        lambda path: Reset(0, times=1, path=path),
        lambda path: Truncate(3, times=1, path=path),
        lambda path: CloseConnection(announced=False, path=path),
    ],
    ids=["500", "reset", "truncated", "closed"],
)
def test_what_passes_is_repeated(host: Host, hub: Hub, question: str, make: Any) -> None:
    with hub.fault(make(question)) as fault:
        host.ok(host.lock(BIG))
        assert fault.applied


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
@pytest.mark.parametrize("retry_after", [True, False], ids=["Retry-After", "RateLimit"])
def test_waits_as_long_as_the_hub_says(host: Host, hub: Hub, question: str, retry_after: bool) -> None:
    with hub.fault(rate_limited(1, retry_after=retry_after, times=1, path=question)):
        start = time.monotonic()
        host.ok(host.lock(BIG))
        assert time.monotonic() - start >= 1


@pytest.mark.parametrize(
    "fault",
    [
        Flip(offset=3, path=QUESTIONS["file"]),
        WrongChecksum(file="config.json"),
        WrongSize(by=1, file="config.json"),
        WrongSize(by=-1, file="config.json"),
    ],
    ids=["flip", "checksum", "too large", "too small"],
)
def test_small_file_that_is_not_what_the_tree_says(host: Host, hub: Hub, fault: Fault) -> None:
    with hub.fault(fault):
        assert_sentence(host.lock(BIG, timeout=2), "acme/big", "config.json", "expected", "found", "SHA-1")
    assert not host.lock_file.exists()


def test_small_file_that_heals(host: Host, hub: Hub, big: dict[str, Any]) -> None:
    with hub.fault(Flip(offset=3, path=QUESTIONS["file"], times=1)):
        host.ok(host.lock(BIG))
    assert host.locked_models() == [big]


@pytest.mark.parametrize(
    "names",
    [
        ["../escape.json"],
        ["a/../../escape.json"],
        ["/etc/escape.json"],
        ["nul\0.json"],
        ["back\\slash.json"],
        ["config.json"],
        ["CONFIG.json"],
        ["config.json/below.json"],
        ["A/x.json", "a/y.json"],
        ["line\nbreak.json"],
        ["./x.json"],
        ["x//y.json"],
        ["x" * 256],
        ["\u202egnp.json"],
    ],
    ids=repr,
)
def test_hostile_names_in_the_tree(host: Host, hub: Hub, names: list[str], tmp_path: Path) -> None:
    before = sorted(path for path in tmp_path.rglob("*"))
    with hub.fault(ExtraFiles(names)) as fault:
        assert_sentence(host.lock(BIG), "acme/big")
        assert fault.applied
    assert sorted(path for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("question", ["commit", "tree"])
def test_json_that_is_cut_off(host: Host, hub: Hub, question: str) -> None:
    with hub.fault(MalformedJson(path=QUESTIONS[question])) as fault:
        assert_sentence(host.lock(BIG, timeout=2), "acme/big", hub.endpoint)
        assert fault.applied
    with hub.fault(MalformedJson(path=QUESTIONS[question], times=1)):
        host.ok(host.lock(BIG))


def test_json_that_is_huge(host: Host, hub: Hub, big: dict[str, Any]) -> None:
    with hub.fault(HugeJson(100 * 1024 * 1024, path=QUESTIONS["tree"])):
        result = host.lock(BIG, timeout=10)
    if result.failed:
        assert_sentence(result, "acme/big")
    else:
        assert host.locked_models() == [big]


@pytest.mark.parametrize(
    ("catalog", "fragments"),
    [
        ([], ("catalog",)),
        ([TINY, TINY], ("tiny",)),
        ([TINY, {**TINY, "name": "TINY"}], ("tiny", "TINY")),
        ([{**TINY, "name": "../x"}], ("catalog[0].name",)),
        ([{**TINY, "repo_id": "../../x"}], ("repo_id",)),
        ([{**TINY, "repo_id": "a/b/c"}], ("repo_id",)),
        ([{**TINY, "revision": ""}], ("revision",)),
        ([{**TINY, "revision": "a b"}], ("revision",)),
        ([{**TINY, "include": [""]}], ("include",)),
        ([{"name": "x"}], ("repo_id",)),
        ([{**TINY, "unknown": 1}], ("unknown",)),
    ],
)
def test_catalog_that_is_wrong(host: Host, hub: Hub, catalog: list[Any], fragments: tuple[str, ...]) -> None:
    assert_sentence(host.lock(*catalog), *fragments)
    assert hub.stats.requests() == 0


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"\xff\xfe", b'{"lock_version": 2, "models": []}', b'{"lock_version": 1}', b"[" * 100_000, b"null"],
    ids=["cut off", "list", "no text", "version", "no models", "deep", "null"],
)
def test_lock_that_is_damaged_is_left(host: Host, content: bytes) -> None:
    host.lock_file.write_bytes(content)
    assert_sentence(host.lock(BIG), str(host.lock_file))
    assert host.lock_file.read_bytes() == content


def test_destination_that_cannot_be_written(host: Host, tmp_path: Path) -> None:
    assert_sentence(host.lock(BIG, dest=str(tmp_path / "none" / "models.lock.json")), str(tmp_path / "none"))
    (tmp_path / "directory").mkdir()
    assert_sentence(host.lock(BIG, dest=str(tmp_path / "directory")), str(tmp_path / "directory"))

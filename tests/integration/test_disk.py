# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks that are too small, full, read-only, or prepared by someone who means harm."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub import Hub
from tests.hub.faults import Slow
from tests.integration.disks import read_only, small_disk
from tests.integration.harness import (
    Host,
    assert_not_fetched_again,
    assert_sentence,
    sha256_of,
    snapshot,
    wait_until,
)

MIB = 1024 * 1024


@pytest.fixture
def disk(host: Host) -> Iterator[Path]:
    """A filesystem of 64 MiB of its own for the store."""
    host.root.mkdir()
    with small_disk(host.root, "64m"):
        yield host.root


def fill(directory: Path, leave: int = 0) -> Path:
    """Write a file that takes all the space of a filesystem but so many bytes."""
    path = directory / "somebody-elses.file"
    status = os.statvfs(directory)
    with path.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, status.f_bavail * status.f_frsize - leave)
    return path


def test_too_small_disk_is_refused_before_the_first_byte(
    host: Host, hub: Hub, disk: Path, tiny: dict[str, Any], big: dict[str, Any]
) -> None:
    host.ok(host.generation(tiny))
    other = fill(disk, leave=20 * MIB)
    hub.stats.reset()
    for arguments in ({}, {"_ansible_check_mode": True}):
        result = host.generation(tiny, big, **arguments)
        assert_sentence(result, "too small", "40.0 MiB", "free")
    assert hub.stats.requests() == 0
    host.assert_serves(tiny, generation=1)
    assert host.generations() == ["1"]

    other.unlink()
    host.ok(host.generation(tiny, big))
    host.assert_serves(tiny, big, generation=2)


def test_disk_that_fills_up_meanwhile(
    host: Host, hub: Hub, disk: Path, tiny: dict[str, Any], big: dict[str, Any]
) -> None:
    host.ok(host.generation(tiny))
    sha256 = sha256_of(big, "weights.safetensors")
    with hub.fault(Slow(24 * MIB, origin="cdn")):
        process = host.start_generation(tiny, big, connections=1)
        wait_until(lambda: bool(host.journal(sha256)), "a block is journalled")
        other = fill(disk)
        result = process.finish()
    # The space for the content was reserved; what little is needed beside it may be missing.
    if result.failed:
        assert_sentence(result, "No space left on device", str(disk))
        host.assert_serves(tiny, generation=1)
        assert host.generations() == ["1"]
    other.unlink()
    journals = host.journals(big)
    hub.stats.reset()
    host.ok(host.generation(tiny, big))
    host.assert_serves(tiny, big, generation=2)
    assert_not_fetched_again(hub, journals, big)


def test_disk_that_is_full(host: Host, hub: Hub, disk: Path, tiny: dict[str, Any]) -> None:
    host.ok(host.generation(tiny))
    host.ok(host.generation(tiny, state="staged"))
    other = fill(disk)
    result = host.generation(generation="1")
    assert not host.ok(result).changed
    # Verification only reads; that it cannot be noted in the ledger is a warning.
    verified = host.ok(host.verify())
    assert not verified.corrupt
    # What frees space must work on a full disk.
    host.ok(host.run("model_prune", keep=1))
    host.assert_serves(tiny, generation=1)
    other.unlink()


def test_rollback_on_a_full_disk(host: Host, disk: Path, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    host.ok(host.generation(tiny))
    host.ok(host.generation(big))
    fill(disk)
    result = host.generation(generation="previous")
    if result.failed:
        assert_sentence(result, "No space left on device")
        host.assert_serves(big, generation=2)
    else:
        host.assert_serves(tiny, generation=1)


@pytest.fixture
def frozen(serving: Host) -> Iterator[Host]:
    """A host whose store is on a filesystem that became read-only."""
    with read_only(serving.root):
        yield serving


def test_read_only_store(frozen: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    before = snapshot(frozen.root)
    for module, arguments in (
        ("model_generation", {"models": [tiny, big]}),
        ("model_generation", {"generation": "9", "state": "absent"}),
        ("model_prune", {"keep": 1}),
        ("model_verify", {"repair": True}),
    ):
        assert_sentence(frozen.run(module, **arguments), "Read-only file system", str(frozen.root))
    assert hub.stats.requests() == 0
    verified = frozen.ok(frozen.verify())
    assert not verified.corrupt
    assert len(verified.verified) == len(tiny["files"])
    frozen.ok(frozen.run("model_store_info"))
    assert snapshot(frozen.root) == before


def test_read_only_store_that_serves_the_lock_already(frozen: Host, tiny: dict[str, Any]) -> None:
    """There is nothing to write, so nothing has to be written."""
    assert not frozen.ok(frozen.generation(tiny, _ansible_check_mode=True)).changed
    assert not frozen.ok(frozen.generation(tiny)).changed
    assert not frozen.ok(frozen.run("model_generation", generation="1")).changed


@pytest.mark.parametrize("root", ["relative/path", "/dev/null", "/dev/null/below", "/proc/no"])
def test_root_that_cannot_be_a_store(host: Host, tiny: dict[str, Any], root: str) -> None:
    result = host.generation(tiny, root=root)
    assert_sentence(result, root)
    assert host.hub.stats.requests() == 0


# Links and other things that someone planted below the store's root


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A tree beside the store that must stay as it is, byte by byte."""
    directory = tmp_path / "canary"
    (directory / "directory").mkdir(parents=True)
    (directory / "file").write_text("this must not change\n", encoding="utf-8")
    return directory


def move_aside(host: Host, name: str) -> Path:
    """Give a directory of the store another name, so that something else can have its own."""
    path = host.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        path.rename(host.home / name.replace("/", "_"))
    elif path.is_symlink() or path.exists():
        path.unlink()
    return path


PLANTED = [
    ("blobs", "directory"),
    ("blobs/{xx}", "directory"),
    ("blobs/{xx}", "file"),
    ("partial", "directory"),
    ("partial/{sha256}", "file"),
    ("partial/{sha256}", "directory"),
    ("partial/{sha256}.journal", "file"),
    ("generations", "directory"),
    ("generations", "file"),
    (".lock", "file"),
    ("ledger.jsonl", "file"),
    ("current", "directory"),
    ("current", "file"),
]


@pytest.mark.parametrize(("name", "kind"), PLANTED, ids=[f"{name} to a {kind}" for name, kind in PLANTED])
def test_planted_link(
    serving: Host, canary: Path, tiny: dict[str, Any], big: dict[str, Any], name: str, kind: str
) -> None:
    sha256 = sha256_of(big, "weights.safetensors")
    name = name.format(sha256=sha256, xx=sha256[:2])
    planted = move_aside(serving, name)
    planted.symlink_to(canary / kind)
    before = snapshot(canary)
    for module, arguments in (
        ("model_generation", {"models": [tiny, big]}),
        ("model_verify", {"repair": True}),
        ("model_prune", {"keep": 1, "partial_max_age": 0}),
    ):
        result = serving.run(module, **arguments)
        assert "Traceback" not in result.output
        if result.failed:
            assert_sentence(result)
        assert snapshot(canary) == before
    # The link itself is either still there, and named, or was replaced by what belongs there.
    result = serving.generation(tiny, big)
    assert snapshot(canary) == before
    if planted.is_symlink() and name != "current":
        assert_sentence(result, str(planted))
        planted.unlink()
    elif name == "current" and result.failed:
        assert_sentence(result, str(planted))


@pytest.mark.parametrize("name", [".current.new", "generations/.new-2", "generations/.new-7"])
def test_planted_link_under_a_temporary_name(
    serving: Host, canary: Path, tiny: dict[str, Any], big: dict[str, Any], name: str
) -> None:
    """Names that are replaced anyway: the link goes, where it points to does not."""
    before = snapshot(canary)
    (serving.root / name).symlink_to(canary / "directory")
    serving.ok(serving.generation(tiny, big))
    serving.assert_serves(tiny, big, generation=2)
    assert snapshot(canary) == before
    assert not (serving.root / name).is_symlink()


def test_current_is_a_directory(serving: Host, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    current = serving.root / "current"
    current.unlink()
    (current / "precious").mkdir(parents=True)
    for result in (serving.generation(tiny, big), serving.verify(), serving.run("model_store_info")):
        assert_sentence(result, str(current))
    assert (current / "precious").is_dir()
    shutil.rmtree(current)
    serving.ok(serving.generation(tiny, big))
    serving.assert_serves(tiny, big)


@pytest.mark.parametrize("name", ["partial/{sha256}", ".lock", "ledger.jsonl"])
def test_planted_hard_link(serving: Host, canary: Path, tiny: dict[str, Any], big: dict[str, Any], name: str) -> None:
    """Another name of a file that lies elsewhere: writing to it would write outside the store."""
    planted = move_aside(serving, name.format(sha256=sha256_of(big, "weights.safetensors")))
    planted.hardlink_to(canary / "file")
    before = (canary / "file").read_bytes()
    result = serving.generation(tiny, big)
    assert (canary / "file").read_bytes() == before
    assert_sentence(result, str(planted))
    planted.unlink()
    serving.ok(serving.generation(tiny, big))


@pytest.mark.parametrize("name", ["partial/{sha256}", "partial/{sha256}.journal", ".lock", "ledger.jsonl"])
def test_planted_fifo(serving: Host, tiny: dict[str, Any], big: dict[str, Any], name: str) -> None:
    """Opening one without care would wait for ever."""
    planted = move_aside(serving, name.format(sha256=sha256_of(big, "weights.safetensors")))
    os.mkfifo(planted)
    if planted.suffix == ".journal":  # of a partial file that there is; without one it is just removed
        planted.with_suffix("").touch()
    assert_sentence(serving.generation(tiny, big), str(planted))


def test_hostile_lock(serving: Host, canary: Path, tiny: dict[str, Any]) -> None:
    """A lock is checked on the host, whoever wrote it."""
    before = snapshot(canary)
    content = {"size": 21, "sha256": "0" * 64}
    names = ["../../../canary/file", str(canary / "file"), "a/../../x", "a\0b", "a\\b", "", ".", "a//b", "a/", "ä\n"]
    for name in names:
        model = {**tiny, "name": "evil", "files": [{"path": name, **content}]}
        assert_sentence(serving.generation(tiny, model), "models[1] (evil).files[0].path", "expected")
    clashes = [("x", "x"), ("x", "X"), ("x", "x/y"), ("ö", "o\u0308"), ("A/x", "a/y")]
    for names_ in clashes:
        model = {**tiny, "name": "evil", "files": [{"path": name, **content} for name in names_]}
        assert_sentence(serving.generation(tiny, model), "evil")
    for name in ("..", ".", "", "a/b", "-x", ".generation.json", "a\0", "TINY", "tiny"):
        assert_sentence(serving.generation(tiny, {**tiny, "name": name}), "models")
    assert snapshot(canary) == before
    assert serving.generations() == ["1"]
    assert serving.hub.stats.requests() == 0


def test_owner(host: Host, tiny: dict[str, Any]) -> None:
    """Everything in the store belongs to the account that was named."""
    if os.geteuid():
        pytest.fail("this test gives files to another account, which needs root")
    host.ok(host.generation(tiny, owner="nobody"))
    strangers = [path for path in [host.root, *host.root.rglob("*")] if path.lstat().st_uid != 65534]
    assert strangers == []
    assert_sentence(host.generation(tiny, owner="no-such-account"), "no-such-account")

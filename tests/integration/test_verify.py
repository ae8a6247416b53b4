# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Verification names what is damaged, and repair mends that and nothing else."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.hub import Hub
from tests.hub.faults import Flip, Slow, Status
from tests.integration.harness import BLOCK, Host, assert_sentence, flip, served_parts, sha256_of, sha256sums, snapshot

WEIGHTS = "weights.safetensors"


@pytest.fixture
def full(serving: Host, tiny: dict[str, Any], big: dict[str, Any]) -> Host:
    """A host whose generation 2 is both models, which it serves."""
    serving.ok(serving.generation(tiny, big))
    serving.hub.stats.reset()
    return serving


def weights(host: Host, big: dict[str, Any]) -> Path:
    return host.blob(sha256_of(big, WEIGHTS))


def touch_like_before(path: Path, before: os.stat_result) -> None:
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_everything_is_as_it_must_be(full: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    before = snapshot(full.root / "blobs"), snapshot(full.root / "generations")
    result = full.ok(full.verify(endpoint="http://127.0.0.1:9"))
    files = {f"{model['name']}/{file['path']}": file for model in (tiny, big) for file in model["files"]}
    assert not result.changed
    assert sorted(result.verified) == sorted(files)
    assert (result.corrupt, result.missing, result.repaired, result.unexpected) == ([], [], [], [])
    assert result.hashed_bytes == sum({file["sha256"]: file["size"] for file in files.values()}.values())
    assert result.downloaded_bytes == 0
    assert result.coverage["never_verified"] == 0
    quick = full.ok(full.verify(mode="quick"))
    assert quick.hashed_bytes == 0
    assert sorted(quick.verified) == sorted(files)
    # Nor does repair touch anything where nothing is damaged.
    assert not full.ok(full.verify(repair=True)).changed
    assert (snapshot(full.root / "blobs"), snapshot(full.root / "generations")) == before
    assert hub.stats.requests() == 0


def test_bit_rot_is_found_and_mended(full: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    blob = weights(full, big)
    flip(blob, BLOCK + 1_000_000, 2 * BLOCK + 5)
    before = snapshot(full.root / "blobs")
    full.ok(full.verify(mode="quick"))  # which cannot see it

    result = full.verify(endpoint="http://127.0.0.1:9")
    assert_sentence(result, "generation 2", WEIGHTS, "big", "repair")
    (corrupt,) = result.corrupt
    assert (corrupt["model"], corrupt["path"], corrupt["sha256"]) == ("big", WEIGHTS, blob.name)
    assert corrupt["blocks"] == [1, 2]
    assert result.missing == []
    assert f"big/{WEIGHTS}" not in result.verified
    assert snapshot(full.root / "blobs") == before
    assert_sentence(full.verify(repair=True, _ansible_check_mode=True), WEIGHTS)
    assert snapshot(full.root / "blobs") == before
    assert hub.stats.requests() == 0

    inode = blob.stat().st_ino
    repaired = full.ok(full.verify(repair=True))
    assert repaired.changed
    assert [defect["blocks"] for defect in repaired.repaired] == [[1, 2]]
    assert repaired.downloaded_bytes == blob.stat().st_size - BLOCK
    full.assert_serves(tiny, big, generation=2)
    assert blob.stat().st_ino == inode
    parts = [(start, end) for exchange, start, end in served_parts(hub) if exchange.path.endswith(WEIGHTS)]
    assert min(start for start, _end in parts) == BLOCK
    assert sum(end - start for start, end in parts) == blob.stat().st_size - BLOCK
    full.ok(full.verify(mode="quick"))
    assert not full.ok(full.verify(repair=True)).changed


def test_first_and_last_byte(full: Host, big: dict[str, Any]) -> None:
    blob = weights(full, big)
    flip(blob, 0, blob.stat().st_size - 1)
    assert full.verify().corrupt[0]["blocks"] == [0, 2]
    full.ok(full.verify(repair=True))
    full.ok(full.verify())


@pytest.mark.parametrize("size", [0, 100, BLOCK, BLOCK + 1, 2 * BLOCK + 7])
def test_truncated(full: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any], size: int) -> None:
    blob = weights(full, big)
    before, expected = blob.stat(), blob.stat().st_size
    os.truncate(blob, size)
    touch_like_before(blob, before)
    quick = full.verify(mode="quick")
    assert_sentence(quick, WEIGHTS, str(expected), str(size))
    result = full.verify()
    assert_sentence(result, WEIGHTS)
    (corrupt,) = result.corrupt
    assert corrupt["blocks"] == list(range(size // BLOCK, 3))
    repaired = full.ok(full.verify(repair=True))
    assert repaired.downloaded_bytes == expected - size // BLOCK * BLOCK
    full.assert_serves(tiny, big, generation=2)


def test_extended(full: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    blob = weights(full, big)
    with blob.open("ab") as stream:
        stream.write(b"trailing")
    assert_sentence(full.verify(), WEIGHTS, "expected")
    full.ok(full.verify(repair=True))
    assert hub.stats.requests() == 0
    full.assert_serves(tiny, big, generation=2)


def test_served_file_was_replaced(full: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    served = full.root / "current" / "big" / "config.json"
    content = served.read_bytes()
    served.unlink()
    served.write_bytes(content.replace(b"32000", b"31999"))
    result = full.verify()
    assert_sentence(result, "config.json", "replaced")
    assert [(defect["model"], defect["path"]) for defect in result.corrupt] == [("big", "config.json")]
    full.ok(full.verify(repair=True))
    assert hub.stats.requests() == 0
    assert served.samefile(full.blob(sha256_of(big, "config.json")))
    full.assert_serves(tiny, big, generation=2)


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_served_file_became_something_else(
    full: Host, hub: Hub, tmp_path: Path, tiny: dict[str, Any], big: dict[str, Any], kind: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.copyfile(full.root / "current/big/config.json", outside / "config.json")
    before = snapshot(outside)
    served = full.root / "current" / "big" / "config.json"
    served.unlink()
    if kind == "link":
        served.symlink_to(outside / "config.json")
    elif kind == "directory":
        served.mkdir()
    else:
        os.mkfifo(served)
    assert_sentence(full.verify(), "config.json")
    full.ok(full.verify(repair=True))
    full.assert_serves(tiny, big, generation=2)
    assert not served.is_symlink()
    assert snapshot(outside) == before
    assert hub.stats.requests() == 0


def test_models_directory_became_a_link(
    full: Host, hub: Hub, tmp_path: Path, tiny: dict[str, Any], big: dict[str, Any]
) -> None:
    outside = shutil.copytree(full.root / "current" / "big", tmp_path / "outside")
    before = snapshot(outside)
    shutil.rmtree(full.root / "generations/2/big")
    (full.root / "generations/2/big").symlink_to(outside)
    assert_sentence(full.verify(), "big")
    full.ok(full.verify(repair=True))
    full.assert_serves(tiny, big, generation=2)
    assert snapshot(outside) == before
    assert hub.stats.requests() == 0


def test_served_file_is_gone(full: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    shutil.rmtree(full.root / "current" / "tiny" / "1_Pooling")
    (full.root / "current" / "big" / WEIGHTS).unlink()
    for mode in ("quick", "full"):
        result = full.verify(mode=mode)
        assert_sentence(result, "missing")
        assert {defect["path"] for defect in result.missing} == {
            WEIGHTS,
            "1_Pooling/config.json",
            "1_Pooling/empty.txt",
        }
    full.ok(full.verify(repair=True))
    full.assert_serves(tiny, big, generation=2)
    assert hub.stats.requests() == 0


def test_blob_is_lost_but_served(full: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    """The content is there, only its name in the store is not."""
    weights(full, big).unlink()
    result = full.verify()
    assert_sentence(result, WEIGHTS, "lost")
    full.ok(full.verify(repair=True))
    full.assert_serves(tiny, big, generation=2)
    assert (full.root / "current/big" / WEIGHTS).samefile(weights(full, big))
    assert hub.stats.requests() == 0


def test_blob_and_served_file_are_lost(full: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    weights(full, big).unlink()
    (full.root / "current/big" / WEIGHTS).unlink()
    (full.root / "current/big/config.json").unlink()
    result = full.verify()
    assert {defect["path"] for defect in result.missing} == {WEIGHTS, "config.json"}
    repaired = full.ok(full.verify(repair=True))
    assert repaired.downloaded_bytes == next(file["size"] for file in big["files"] if file["path"] == WEIGHTS)
    assert {exchange.path.rpartition("/")[2] for exchange in hub.stats.exchanges()} == {WEIGHTS}
    full.assert_serves(tiny, big, generation=2)
    assert (full.root / "current/big" / WEIGHTS).samefile(weights(full, big))


def test_lost_blob_whose_served_file_is_damaged(
    full: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]
) -> None:
    flip(weights(full, big), 5_000_000)
    weights(full, big).unlink()
    full.ok(full.verify(repair=True))
    full.assert_serves(tiny, big, generation=2)


def test_mode(full: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    weights(full, big).chmod(0o666)
    for mode in ("quick", "full"):
        assert_sentence(full.verify(mode=mode), WEIGHTS, "0444", "0666")
    full.ok(full.verify(repair=True))
    assert weights(full, big).stat().st_mode & 0o777 == 0o444
    full.assert_serves(tiny, big, generation=2)
    assert hub.stats.requests() == 0


def test_mode_and_time(full: Host, big: dict[str, Any]) -> None:
    """A time that changed as well must not hide that everybody may write to it."""
    weights(full, big).chmod(0o666)
    os.utime(weights(full, big))
    assert_sentence(full.verify(), WEIGHTS, "0444", "0666")
    full.ok(full.verify(repair=True))
    assert weights(full, big).stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize("mode", ["quick", "full"])
def test_written_to_without_a_change(full: Host, hub: Hub, big: dict[str, Any], mode: str) -> None:
    """The content is right, only the time is not: after a repair a quick look must find nothing any more."""
    os.utime(weights(full, big))
    assert_sentence(full.verify(mode="quick"), WEIGHTS)
    full.ok(full.verify(mode=mode, repair=True))
    assert hub.stats.requests() == 0
    full.ok(full.verify(mode="quick"))
    # Which matters: whoever rolls back relies on the quick look.
    full.ok(full.generation(generation="1"))
    full.ok(full.generation(generation="2"))


def test_unexpected_files_are_reported_and_left(full: Host, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    added = full.root / "current" / "tiny" / "1_Pooling" / "notes.txt"
    added.write_text("mine", encoding="utf-8")
    stray = full.root / "current" / "stray"
    stray.write_text("mine too", encoding="utf-8")
    result = full.ok(full.verify(repair=True))
    assert result.unexpected == ["stray", "tiny/1_Pooling/notes.txt"]
    assert not result.changed
    assert added.read_text(encoding="utf-8") == "mine"
    assert stray.read_text(encoding="utf-8") == "mine too"


@pytest.mark.parametrize("damage", [b"", b"nonsense", None, b"\xff\xfe\0"])
def test_damaged_record_of_blocks(full: Host, hub: Hub, big: dict[str, Any], damage: bytes | None) -> None:
    record = weights(full, big).with_name(f"{weights(full, big).name}.blocks")
    content = record.read_bytes()
    record.chmod(0o644)
    record.write_bytes(content.replace(b'"blocks": ["', b'"blocks": ["0') if damage is None else damage)
    full.ok(full.verify())
    assert hub.stats.requests() == 0
    # It was made anew from content that was proven, so that blocks can be told apart again.
    flip(weights(full, big), BLOCK)
    assert full.verify().corrupt[0]["blocks"] == [1]
    full.ok(full.verify(repair=True))


def test_forged_record_of_blocks(full: Host, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    """A record must not vouch for other content than the lock names, nor must it keep that from being mended."""
    blob = weights(full, big)
    flip(blob, 5_000_000)
    record = blob.with_name(f"{blob.name}.blocks")
    header, *lines = record.read_text(encoding="ascii").splitlines()
    lines[1] = hashlib.sha256(blob.read_bytes()[:BLOCK]).hexdigest()
    body = "".join(f"{line}\n" for line in lines)
    record.chmod(0o644)
    checksum = hashlib.sha256(body.encode()).hexdigest()
    record.write_text(f"{header.rpartition(' ')[0]} {checksum}\n{body}", encoding="ascii")
    full.ok(full.generation(tiny, {**big, "name": "big-too"}))
    full.assert_serves(tiny, {**big, "name": "big-too"})


def test_damage_without_a_record_of_blocks(full: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    """Nothing tells which blocks are bad, so the file is fetched whole."""
    blob = weights(full, big)
    blob.with_name(f"{blob.name}.blocks").unlink()
    flip(blob, 2 * BLOCK)
    result = full.verify()
    assert_sentence(result, WEIGHTS, blob.name)
    assert result.corrupt[0]["blocks"] is None
    full.ok(full.verify(repair=True))
    full.assert_serves(tiny, big, generation=2)
    assert full.ok(full.verify()).corrupt == []


def test_budget_is_spent_on_what_was_verified_longest_ago(
    full: Host, tiny: dict[str, Any], big: dict[str, Any]
) -> None:
    """Some short runs cover everything, and none takes a file again while another one never was."""
    (full.root / "ledger.jsonl").unlink()
    files = {f"{model['name']}/{file['path']}": file["sha256"] for model in (tiny, big) for file in model["files"]}
    known: set[str] = set()
    for _run in range(100):
        result = full.ok(full.verify(budget_seconds=0.002))
        hashed = {files[path] for path in result.verified}
        assert not hashed & known or hashed | known == set(files.values())
        known |= hashed
        assert result.coverage["never_verified"] == len(set(files.values()) - known)
        if not result.coverage["never_verified"]:
            break
    assert known == set(files.values())
    assert_sentence(full.verify(budget_seconds=0), "budget_seconds")


def test_repair_with_a_hub_that_lies(full: Host, hub: Hub, big: dict[str, Any]) -> None:
    blob = weights(full, big)
    flip(blob, BLOCK + 77)
    bad = blob.read_bytes()
    with hub.fault(Flip(offset=BLOCK + 99, origin="cdn")):
        result = full.verify(repair=True, retries=1)
    assert_sentence(result, WEIGHTS, "big", "block 1", "SHA-256")
    assert blob.read_bytes() == bad
    with hub.fault(Status(503)):
        assert_sentence(full.verify(repair=True, retries=0), WEIGHTS, "big", "503")
    assert blob.read_bytes() == bad
    full.ok(full.verify(repair=True))
    full.ok(full.verify())


def test_repair_killed_at_random_moments(full: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    blob = weights(full, big)
    good = blob.read_bytes()
    flip(blob, 100, BLOCK + 100, 2 * BLOCK + 100)
    chance = random.Random(7)
    healed: set[int] = set()
    hub.faults.add(Slow(48 * 1024 * 1024, origin="cdn"))
    started, kills = time.monotonic(), 0
    while kills < 15 and time.monotonic() - started < 40:
        process = full.start("model_verify", repair=True, connections=2)
        deadline = time.monotonic() + chance.uniform(0.1, 1.2)
        while process.running and time.monotonic() < deadline:
            time.sleep(0.002)
        finished = not process.kill()
        kills += not finished
        now = blob.read_bytes()
        assert len(now) == len(good)
        blocks = [slice(index * BLOCK, (index + 1) * BLOCK) for index in range(3)]
        right = {index for index, block in enumerate(blocks) if now[block] == good[block]}
        assert healed <= right, f"blocks {healed - right} were good already"
        healed = right
        if finished:
            flip(blob, 100, BLOCK + 100, 2 * BLOCK + 100)
            healed = set()
    assert kills == 15
    hub.faults.clear()
    full.ok(full.verify(repair=True))
    full.assert_serves(tiny, big, generation=2)
    full.ok(full.verify(mode="quick"))
    assert list((full.root / "partial").iterdir()) == []


def test_both_copies_of_a_generation_are_mended(full: Host, tiny: dict[str, Any]) -> None:
    """A blob that two generations have is mended for both, as it is mended in place."""
    flip(full.blob(sha256_of(tiny, "model-00003-of-00003.safetensors")), 10)
    full.ok(full.verify(repair=True))
    full.ok(full.verify(generation=1))
    assert sha256sums(full.root / "generations/1/tiny") == sha256sums(full.root / "generations/2/tiny")


def test_lost_blob_of_two_generations(full: Host, tiny: dict[str, Any]) -> None:
    path = "model-00003-of-00003.safetensors"
    full.blob(sha256_of(tiny, path)).unlink()
    (full.root / "generations/2/tiny" / path).unlink()
    full.ok(full.verify(repair=True))
    full.ok(full.verify(generation=1, repair=True))
    first, second = (full.root / "generations" / number / "tiny" / path for number in ("1", "2"))
    assert first.samefile(second)


def test_by_an_account_that_may_only_read(full: Host, hub: Hub, big: dict[str, Any]) -> None:
    if os.geteuid() == 0:
        # An account without any right but to find its Python and the collection, wherever they are installed.
        full.prefix = (
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            *(f"--{kind}=-all,+dac_read_search" for kind in ("inh-caps", "ambient-caps", "bounding-set")),
        )
    before = snapshot(full.root)
    result = full.ok(full.verify(endpoint="http://127.0.0.1:9"))
    assert len(result.verified) == 14
    assert "ledger" in str(result.warnings)
    flip(weights(full, big), 3)
    assert full.verify().corrupt[0]["blocks"] == [0]
    assert_sentence(full.verify(repair=True), str(full.root))
    flip(weights(full, big), 3)
    assert snapshot(full.root) == before


@pytest.mark.parametrize("arguments", [{}, {"repair": True}, {"mode": "quick"}])
def test_nothing_to_verify(host: Host, arguments: dict[str, Any]) -> None:
    assert_sentence(host.verify(**arguments), str(host.root))
    host.root.mkdir()
    assert_sentence(host.verify(**arguments), str(host.root), "serves no generation")
    assert_sentence(host.verify(generation=3, **arguments), "generation 3")

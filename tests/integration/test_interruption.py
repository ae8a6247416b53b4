# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Processes that are killed or stopped at any moment, and two that want the same store."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.hub import Hub
from tests.hub.faults import BlackHole, Slow, rate_limited
from tests.integration.conftest import write_weights
from tests.integration.harness import (
    BLOCK,
    Host,
    assert_not_fetched_again,
    assert_sentence,
    locked,
    sha256_of,
    wait_until,
)

MIB = 1024 * 1024
KILLS = 25


def make_target(hub: Hub, directory: Path, number: int) -> dict[str, Any]:
    """Return a model of two files that nobody has yet, of five blocks in all."""
    source = directory / f"target-{number}"
    write_weights(source / "one.safetensors", 2.8, seed=100 + number)
    write_weights(source / "two.safetensors", 1.2, seed=200 + number)
    hub.add_repo(f"acme/target-{number}", source)
    return locked(hub, "target", f"acme/target-{number}", source)


def test_killed_at_random_moments(serving: Host, hub: Hub, tmp_path: Path, tiny: dict[str, Any]) -> None:
    chance = random.Random(20260101)
    served: tuple[dict[str, Any], ...] = (tiny,)
    generation, kills, targets = 1, 0, 1
    target = make_target(hub, tmp_path, targets)
    started = time.monotonic()
    hub.faults.add(Slow(32 * MIB, origin="cdn"))
    while kills < KILLS and time.monotonic() - started < 60:
        journals = serving.journals(target)
        hub.stats.reset()
        process = serving.start_generation(tiny, target, connections=2)
        deadline = time.monotonic() + chance.uniform(0.05, 1.4)
        while process.running and time.monotonic() < deadline:
            time.sleep(0.002)
        if process.kill():
            kills += 1
        # It may have been done, or even have switched, before it was killed.
        if serving.current != f"generations/{generation}":
            generation, served = generation + 1, (tiny, target)
        serving.assert_serves(*served, generation=generation)
        assert_not_fetched_again(hub, journals, target)
        if served == (tiny, target):
            targets += 1
            target = make_target(hub, tmp_path, targets)
    assert kills == KILLS, f"{kills} kills in a minute, {targets} targets"

    hub.faults.clear()
    journals = serving.journals(target)
    hub.stats.reset()
    serving.ok(serving.generation(tiny, target))
    serving.assert_serves(tiny, target)
    assert_not_fetched_again(hub, journals, target)
    assert list((serving.root / "partial").iterdir()) == []
    serving.ok(serving.verify())


def test_killed_holder_blocks_nobody(serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    with hub.fault(BlackHole(origin="cdn")) as hole:
        process = serving.start_generation(tiny, big)
        wait_until(lambda: bool(hole.applied), "the transfer has begun")
        assert process.kill()
    serving.ok(serving.generation(tiny, big, lock_timeout=0))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_stopped_by_a_signal(
    serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any], number: signal.Signals
) -> None:
    sha256 = sha256_of(big, "weights.safetensors")
    with hub.fault(Slow(24 * MIB, origin="cdn")):
        process = serving.start_generation(tiny, big, connections=1)
        wait_until(lambda: bool(serving.journal(sha256)), "a block is journalled")
        process.send(number)
        start = time.monotonic()
        result = process.finish()
    assert time.monotonic() - start < 3
    assert_sentence(result, "stopped by a signal")
    serving.assert_serves(tiny, generation=1)
    assert list((serving.root / "work").iterdir()) == []

    journals = serving.journals(big)
    assert journals[sha256]
    hub.stats.reset()
    serving.ok(serving.generation(tiny, big))
    serving.assert_serves(tiny, big, generation=2)
    assert_not_fetched_again(hub, journals, big)


@pytest.mark.parametrize("where", [{"origin": "hub"}, {"origin": "cdn"}], ids=["hub", "cdn"])
def test_stopped_while_nothing_comes(
    serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any], where: dict[str, str]
) -> None:
    with hub.fault(BlackHole(**where)) as hole:
        process = serving.start_generation(tiny, big)
        wait_until(lambda: bool(hole.applied), "the request")
        process.send(signal.SIGTERM)
        start = time.monotonic()
        assert_sentence(process.finish(), "stopped by a signal")
        assert time.monotonic() - start < 3
    serving.assert_serves(tiny, generation=1)


def test_stopped_while_it_waits_as_the_hub_asked(
    serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]
) -> None:
    with hub.fault(rate_limited(600, origin="hub")) as fault:
        process = serving.start_generation(tiny, big)
        wait_until(lambda: bool(fault.applied), "the refusal")
        process.send(signal.SIGTERM)
        start = time.monotonic()
        assert_sentence(process.finish(), "stopped by a signal")
        assert time.monotonic() - start < 3


def test_stopped_while_another_writes(serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    with hub.fault(BlackHole(origin="cdn")) as hole:
        first = serving.start_generation(tiny, big)
        wait_until(lambda: bool(hole.applied), "the first writer is at work")
        second = serving.start_generation(tiny, big, lock_timeout=30)
        wait_until(lambda: _waits_for_lock(second.popen.pid, serving), "the second one waits")
        second.send(signal.SIGTERM)
        start = time.monotonic()
        assert_sentence(second.finish(), "stopped by a signal")
        assert time.monotonic() - start < 3
        first.kill()


def test_lock_stopped_while_the_hub_is_silent(host: Host, hub: Hub) -> None:
    with hub.fault(BlackHole()) as hole:
        process = host.start("model_lock", catalog=[{"name": "tiny", "repo_id": "acme/tiny"}], timeout=60)
        wait_until(lambda: bool(hole.applied), "the question")
        process.send(signal.SIGTERM)
        start = time.monotonic()
        try:
            result = process.finish(timeout=5)
        except AssertionError:
            pytest.fail("SIGTERM was not obeyed within 5 seconds")
        assert time.monotonic() - start < 4
    assert_sentence(result, "stopped by a signal")
    assert not host.lock_file.exists()


# Two writers


def _waits_for_lock(pid: int, host: Host) -> bool:
    """Whether a process has the store's lock file open, which it has from the moment in which it wants to write."""
    try:
        return any(descriptor.readlink() == host.root / ".lock" for descriptor in Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:
        return False


def test_second_writer_fails_and_names_the_first(
    serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]
) -> None:
    with hub.fault(BlackHole(origin="cdn")) as hole:
        first = serving.start_generation(tiny, big)
        wait_until(lambda: bool(hole.applied), "the first writer is at work")
        start = time.monotonic()
        for module, arguments in (
            ("model_generation", {"models": [tiny, big]}),
            ("model_generation", {"generation": "9", "state": "absent"}),
            ("model_verify", {"repair": True}),
            ("model_prune", {}),
        ):
            result = serving.run(module, lock_timeout=1, **arguments)
            assert_sentence(result, str(serving.root), "model_generation", str(first.popen.pid), "1 s", "lock_timeout")
        assert 4 <= time.monotonic() - start < 12
        # Who only reads waits for nobody, nor does who wants what is served already.
        serving.ok(serving.run("model_generation", generation="1", lock_timeout=1))
        serving.ok(serving.run("model_store_info"))
        serving.ok(serving.verify(lock_timeout=0))
    serving.ok(first.finish())
    serving.assert_serves(tiny, big, generation=2)


def test_second_writer_waits_for_the_first(serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    with hub.fault(BlackHole(origin="cdn", path="*/weights.safetensors")) as hole:
        first = serving.start_generation(tiny, big)
        wait_until(lambda: bool(hole.applied), "the first writer is at work")
        second = serving.start_generation(tiny, big, lock_timeout=30)
        wait_until(lambda: _waits_for_lock(second.popen.pid, serving), "the second one waits")
    assert serving.ok(first.finish()).changed
    assert not serving.ok(second.finish()).changed
    serving.assert_serves(tiny, big, generation=2)
    assert hub.stats.repeated_bytes("*/weights.safetensors", "cdn") == 0


# A clock that was set back


def test_times_in_the_future(serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    """After the clock was set back, the ledger and the files are from the future."""
    ledger = serving.root / "ledger.jsonl"
    lines = [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines()]
    ledger.write_text("".join(json.dumps({**line, "at": "2091-01-01T00:00:00+00:00"}) + "\n" for line in lines))
    future = time.time() + 10 * 365 * 86400
    for path in serving.root.rglob("*"):
        if path.is_dir() or path.name == ".lock" or path.suffix == ".jsonl":
            os.utime(path, (future, future))

    serving.ok(serving.generation(tiny))
    assert hub.stats.requests() == 0
    with hub.fault(Slow(24 * MIB, origin="cdn")):
        process = serving.start_generation(tiny, big, connections=1)
        wait_until(lambda: bool(serving.journal(sha256_of(big, "weights.safetensors"))), "a block is journalled")
        process.kill()
    for path in (serving.root / "partial").iterdir():
        os.utime(path, (future, future))
    # A partial file from the future is not abandoned.
    pruned = serving.ok(serving.run("model_prune", partial_max_age=1))
    assert pruned.partials == 0
    journals = serving.journals(big)
    hub.stats.reset()
    serving.ok(serving.generation(tiny, big))
    assert_not_fetched_again(hub, journals, big)

    # What was verified longest ago is what was verified first, whatever the clock said.
    assert serving.ok(serving.verify(budget_seconds=600)).coverage["never_verified"] == 0
    serving.assert_serves(tiny, big, generation=2)
    serving.ok(serving.generation(generation="previous"))
    serving.assert_serves(tiny, generation=1)


def test_ledger_that_is_damaged(serving: Host, tiny: dict[str, Any]) -> None:
    """A record that something was verified is never needed."""
    ledger = serving.root / "ledger.jsonl"
    ledger.write_bytes(b'{"at": "2026\n\xff\xfe\0 nonsense\n[1]\n{"event": "verified", "sha256": 7}\n{"cut off')
    serving.ok(serving.verify())
    last = ledger.read_bytes().splitlines()[-1]
    assert json.loads(last)["event"] == "verified"
    info = serving.ok(serving.run("model_store_info"))
    assert info.generations[0]["models"][0]["last_verified"]


def test_blocks_of_a_restart_are_whole(serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    """A journal that names blocks whose bytes never reached the disk is not believed."""
    sha256 = sha256_of(big, "weights.safetensors")
    with hub.fault(Slow(24 * MIB, origin="cdn")):
        process = serving.start_generation(tiny, big, connections=1)
        wait_until(lambda: 0 in serving.journal(sha256), "the first block is journalled")
        process.kill()
    partial = serving.root / "partial" / sha256
    with partial.open("r+b") as stream:
        stream.seek(BLOCK // 2)
        stream.write(bytes(4096))
    with (partial.parent / f"{sha256}.journal").open("ab") as journal:
        journal.write(b"1 " + b"0" * 64 + b"\n2 abc\nnonsense\n99 " + b"f" * 64 + b"\n1 cut off")
    serving.ok(serving.generation(tiny, big))
    serving.assert_serves(tiny, big, generation=2)

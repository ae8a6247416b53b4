# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The verifier that hosts run by themselves, as the one file that it is there."""

from __future__ import annotations

import fcntl
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._blocks import BLOCK_SIZE, BlockRecord, block_count
from ansible_collections.gpufleet.models.plugins.module_utils._generation import Generations
from ansible_collections.gpufleet.models.plugins.module_utils._lockfile import File, Model
from ansible_collections.gpufleet.models.plugins.module_utils._stage import activate
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store
from tests.hub import Hub
from tests.hub.faults import Status
from tests.integration.disks import make_writable, read_only, small_disk
from tests.integration.harness import Host, flip, sha256_of, snapshot, wait_until
from tests.integration.nights import Night, node_exporter, promtool, scrape

GGUF = "tiny-Q4_0.gguf"


@pytest.fixture
def night(serving: Host) -> Night:
    return Night(serving)


def ledger(host: Host, event: str) -> list[dict[str, Any]]:
    lines = (host.root / "ledger.jsonl").read_text(encoding="utf-8").splitlines()
    return [found for found in map(json.loads, lines) if found["event"] == event]


def test_a_good_night_as_prometheus_sees_it(night: Night, tiny: dict[str, Any], hub: Hub, tmp_path: Path) -> None:
    before = int(time.time())
    status, said = night.run("--budget", "3600")
    assert status == 0
    assert said.startswith("generation 1: nothing is damaged; hashed ")
    assert night.value("model_verified", "tiny") == 1
    assert night.value("model_corrupt_blocks_total", "tiny") == 0
    assert night.value("verification_last_run_success") == 1
    assert night.value("verification_last_run_timestamp_seconds") >= before  # type: ignore[operator]
    assert night.value("model_last_verified_timestamp_seconds", "tiny") >= before  # type: ignore[operator]
    sizes = {file["sha256"]: file["size"] for file in tiny["files"]}
    assert night.value("verification_last_run_hashed_bytes") == sum(sizes.values())
    assert {event["sha256"] for event in ledger(night.host, "verified")} == set(sizes)
    assert hub.stats.requests() == 0

    checked = promtool("check", "metrics", text=night.metrics.read_text())
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")

    # As the role has it: a link in the exporter's own directory.
    textfiles = tmp_path / "textfiles"
    textfiles.mkdir()
    (textfiles / night.metrics.name).symlink_to(night.metrics)
    with node_exporter(textfiles) as url:
        seen = scrape(url).splitlines()
    assert "node_textfile_scrape_error 0" in seen
    assert f'gpufleet_model_verified{{commit="{tiny["commit"]}",model="tiny"}} 1' in seen
    assert "# TYPE gpufleet_model_corrupt_blocks_total counter" in seen
    exported = {line.split("{")[0].split(" ")[0] for line in seen if line.startswith("gpufleet_")}
    written = night.metrics.read_text().splitlines()
    assert exported == {line.split("{")[0].split(" ")[0] for line in written if not line.startswith("#")}


def test_damage_is_told_until_it_is_mended(night: Night, tiny: dict[str, Any]) -> None:
    host = night.host
    flip(host.blob(sha256_of(tiny, GGUF)), 100)
    before = snapshot(host.root / "blobs")
    for _night in range(2):
        status, said = night.run()
        assert status == 1
        assert f"of generation 1 are not as they must be; the first: {GGUF} of tiny: 1 of its 1 blocks" in said
        assert "playbook verify" in said
        assert night.value("model_verified", "tiny") == 0
        # It is one block, however often it is found.
        assert night.value("model_corrupt_blocks_total", "tiny") == 1
        assert night.value("verification_last_run_success") == 0
    assert snapshot(host.root / "blobs") == before

    host.ok(host.verify(repair=True))
    # The playbooks have it say so without waiting for the night.
    assert night.run("--refresh")[0] == 0
    assert night.value("model_verified", "tiny") == 1
    assert night.value("model_corrupt_blocks_total", "tiny") == 1
    assert night.value("verification_last_run_success") == 0
    written = night.metrics.read_bytes()
    assert night.run("--refresh")[0] == 0
    assert night.metrics.read_bytes() == written
    assert night.run()[0] == 0
    assert night.value("verification_last_run_success") == 1


def test_it_mends_if_it_may(night: Night, tiny: dict[str, Any], hub: Hub) -> None:
    host = night.host
    flip(host.blob(sha256_of(tiny, GGUF)), 100)
    (host.root / "generations/1/tiny/config.json").unlink()
    with hub.fault(Status(404)):
        status, said = night.run("--repair-from", hub.endpoint)
    assert status == 1
    # What takes no network was mended.
    assert "1 of " in said
    assert "could not be repaired: " in said
    assert "HTTP 404" in said
    assert night.value("model_verified", "tiny") == 0
    assert [event["path"] for event in ledger(host, "repaired")] == ["config.json"]

    status, said = night.run("--repair-from", hub.endpoint)
    assert (status, said.partition(";")[0]) == (0, "generation 1: 1 files were mended")
    assert night.value("model_verified", "tiny") == 1
    assert night.value("model_corrupt_blocks_total", "tiny") == 1
    host.assert_serves(tiny, generation=1)
    assert {event["path"] for event in ledger(host, "repaired")} == {GGUF, "config.json"}


def test_no_file_is_begun_when_the_time_is_over(night: Night) -> None:
    status, said = night.run("--budget", "0.000000001")
    assert status == 0
    assert "hashed 0 of " in said
    assert night.value("verification_last_run_hashed_bytes") == 0


def test_other_writers_do_not_matter_unless_it_has_to_mend(night: Night, hub: Hub) -> None:
    with (night.host.root / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert night.run("--repair-from", hub.endpoint)[0] == 0


def test_no_store_and_nothing_served(host: Host) -> None:
    night = Night(host)
    status, said = night.run()
    assert status == 1
    assert said.startswith(f"{host.root} does not exist; ")
    assert night.value("verification_last_run_success") == 0
    assert night.value("model_verified") is None
    assert not host.root.exists()
    host.root.mkdir()
    status, said = night.run()
    assert (status, said.partition(";")[0]) == (1, f"{host.root} serves no generation")
    assert promtool("check", "metrics", text=night.metrics.read_text()).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [["--budget", "0"], ["--budget", "nan"], ["--metrics", "here"], ["--repair-from", "ftp://x"], ["--what"]],
    ids=" ".join,
)
def test_a_wrong_command_line(night: Night, arguments: list[str]) -> None:
    process = night.start(*arguments)
    _output, errors = process.communicate()
    assert process.returncode == 2
    assert "error: " in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert not night.metrics.exists()


# Killed in the middle: a small file, and then one that takes minutes to hash and no space.


@pytest.fixture
def endless(host: Host) -> Night:
    """A store whose second file is 256 GiB of nothing; where that is right is for nobody to find out."""
    sizes = {"a" * 64: 0, "b" * 64: 1 << 38}
    with Store.create(str(host.root)) as store:
        for sha256, size in sizes.items():
            with store.blob_directory(sha256, create=True):
                blob = host.blob(sha256)
            with blob.open("wb") as stream:
                stream.truncate(size)
            blob.chmod(0o444)
            digests = ("0" * 64,) * block_count(size)
            store.write_record(BlockRecord(sha256, size, blob.stat().st_mtime_ns, digests))
        files = tuple(File(f"{sha256[0]}.bin", size, sha256) for sha256, size in sizes.items())
        activate(store, Generations(store).build((Model("big", "acme/big", "main", "0" * 40, files),)))
    assert sizes["b" * 64] > 1000 * BLOCK_SIZE
    return Night(host)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_hashed_before_a_kill_counts(endless: Night, number: signal.Signals) -> None:
    host = endless.host
    process = endless.start()
    wait_until(lambda: "corrupt" in (host.root / "ledger.jsonl").read_text(), "the small file is in the ledger")
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert output == ""
    if number == signal.SIGTERM:
        assert process.returncode == 143
        assert errors == "stopped by a signal; what was hashed so far is in the ledger\n"
    else:
        assert process.returncode == -signal.SIGKILL
    # What was stopped says nothing, neither good nor bad.
    assert not endless.metrics.exists()
    assert ledger(host, "verification_run") == []
    assert endless.run("--refresh")[0] == 0
    assert endless.value("model_verified", "big") == 0
    assert endless.value("verification_last_run_success") is None


# Disks.


@pytest.fixture
def disk(night: Night) -> Iterator[Path]:
    """A filesystem of 64 KiB for the metrics."""
    directory = night.metrics.parent / "small"
    directory.mkdir()
    with small_disk(directory, "64k"):
        yield directory


def test_no_space_for_the_metrics(night: Night, disk: Path) -> None:
    night.metrics = disk / "gpufleet_models.prom"
    assert night.run()[0] == 0
    before = night.metrics.read_bytes()
    with pytest.raises(OSError, match="No space"):
        (disk / "filler").write_bytes(b"1" * (1 << 17))
    status, said = night.run()
    assert status == 1
    assert said.startswith("generation 1: nothing is damaged; ")
    assert f"the metrics could not be written: {night.metrics}: No space left on device" in said
    assert night.metrics.read_bytes() == before
    assert sorted(path.name for path in disk.iterdir()) == ["filler", "gpufleet_models.prom"]


def test_a_store_that_cannot_be_written(night: Night, tiny: dict[str, Any]) -> None:
    root = night.host.root
    with read_only(root):
        status, said = night.run()
        assert status == 1
        assert said.startswith(f"the ledger of {root} could not be written: Read-only file system")
        assert night.value("verification_last_run_success") == 0
        # It was hashed, and is not damaged.
        assert night.value("model_verified", "tiny") == 1
        assert night.value("verification_last_run_hashed_bytes") > 0  # type: ignore[operator]
        # Damage is told all the same, though the ledger does not know of it.
        make_writable(root, True)
        flip(night.host.blob(sha256_of(tiny, GGUF)), 100)
        make_writable(root, False)
        status, said = night.run()
        assert status == 1
        assert f"{GGUF} of tiny: 1 of its 1 blocks" in said
        assert night.value("model_verified", "tiny") == 0

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Today's playbooks on a store that an earlier version wrote, one after the other on the same host."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.scenario import GATEWAY, Host, Scenario
from tests.hub import Hub
from tests.upgrade.make import serve_sources


@pytest.fixture(scope="module")
def earlier(scenario: Scenario) -> Path:
    """What the archive holds."""
    return scenario.directory / "earlier"


@pytest.fixture(scope="module")
def hub(earlier: Path) -> Iterator[Hub]:
    """A Hub with the models that the earlier version received."""
    with Hub(address=GATEWAY) as hub:
        serve_sources(hub, earlier / "hub")
        yield hub


@pytest.fixture
def host(scenario: Scenario) -> Host:
    """The only host."""
    (host,) = scenario.hosts.values()
    return host


def locked(earlier: Path, number: int) -> dict[str, str]:
    """Return what the earlier version locked for a generation: SHA-256 by path below it."""
    models = json.loads((earlier / "locks" / f"{number}.json").read_text(encoding="utf-8"))["models"]
    return {f"{model['name']}/{file['path']}": file["sha256"] for model in models for file in model["files"]}


def test_what_is_served_is_left_alone(host: Host, earlier: Path) -> None:
    """site.yml with the lock of what is served has run twice by now."""
    store = host.store()
    assert store["current"] == "generations/2"
    assert store["generations"] == {"1": locked(earlier, 1), "2": locked(earlier, 2)}
    manifests = "sha256sum /opt/models/generations/*/.generation.json"
    digests = {path.split("/")[-2]: digest for digest, path in map(str.split, host.run(manifests).splitlines())}
    with tarfile.open(earlier / "store.tar") as archive:
        found = {number: archive.extractfile(f"./generations/{number}/.generation.json") for number in "12"}
        assert digests == {number: hashlib.file_digest(each, "sha256").hexdigest() for number, each in found.items()}
    assert len(store["partial"]) == 2


def test_it_is_verified_with_the_records_that_were_kept(scenario: Scenario, host: Host) -> None:
    records = host.run("cd /opt/models/blobs && find . -name '*.blocks' -printf '%%P %%T@\\n' | sort")
    scenario.ok("verify")
    assert host.run("cd /opt/models/blobs && find . -name '*.blocks' -printf '%%P %%T@\\n' | sort") == records


def test_its_damage_is_repaired(scenario: Scenario, host: Host, hub: Hub, earlier: Path) -> None:
    path = "/opt/models/current/tiny/model-00001-of-00002.safetensors"
    host.damage(path, 1000)
    assert host.store()["generations"]["2"] != locked(earlier, 2)
    play = scenario.play("verify")
    assert "model-00001-of-00002.safetensors" in play.why("debian13")
    scenario.ok("verify", model_store_verify_repair=True, model_store_endpoint=hub.endpoint)
    assert host.store()["generations"]["2"] == locked(earlier, 2)


def test_its_transfer_goes_on_where_it_was_killed(scenario: Scenario, host: Host, hub: Hub, earlier: Path) -> None:
    shutil.copy(earlier / "locks/3.json", scenario.lock)
    blocks = len(host.run("cat /opt/models/partial/*.journal").splitlines()) - 1
    assert blocks > 0
    hub.stats.reset()
    scenario.ok("site", model_store_endpoint=hub.endpoint)
    store = host.store()
    assert store["current"] == "generations/3"
    assert store["generations"]["3"] == locked(earlier, 3)
    assert store["partial"] == []
    size = (earlier / "hub/zeros/model.safetensors").stat().st_size
    assert 0 < hub.stats.bytes_sent(path="*/model.safetensors") < size
    scenario.ok("site")  # nothing is asked


def test_there_is_a_way_back(scenario: Scenario, host: Host, earlier: Path) -> None:
    scenario.ok("rollback")
    assert host.current == "generations/2"
    scenario.ok("rollback")
    assert host.current == "generations/1"
    assert host.sums() == locked(earlier, 1)


def test_what_is_no_longer_needed_goes(scenario: Scenario, host: Host, earlier: Path) -> None:
    scenario.ok("rollback", model_store_generation=3)
    scenario.ok("prune", model_store_keep=1)
    store = host.store()
    assert store["generations"] == {"3": locked(earlier, 3)}
    assert store["blobs"] == {digest: digest for digest in locked(earlier, 3).values()}

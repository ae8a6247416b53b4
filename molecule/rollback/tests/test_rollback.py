# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A new lock that fails in every way: both hosts go on with what they served, and say why. Then one that does not."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.hosts.models import BIG, MIB, MINILM, TINY, big, tiny
from tests.hosts.scenario import Host, Scenario
from tests.hub import Hub
from tests.hub.faults import Flip, Slow

HOSTS = ("debian12", "debian13")
CATALOG = [
    {"name": "all-MiniLM-L6-v2", "repo_id": MINILM, "exclude": [".gitattributes", "*.md"]},
    {"name": "tiny", "repo_id": TINY, "smoke": {"skip": "random tensors in the shape of a model"}},
]
SHARD = "tiny/model-00001-of-00003.safetensors"


@pytest.fixture(scope="module", autouse=True)
def newer_model(scenario: Scenario, hub: Hub) -> None:
    """The Hub has a newer commit of the small model than the hosts have."""
    hub.repositories[TINY].add_commit(tiny(scenario.directory / "models", 2))


@pytest.fixture(scope="module")
def before(scenario: Scenario) -> dict[str, str]:
    """What the hosts serve from the start: SHA-256 by path."""
    return scenario.locked()


@pytest.fixture(autouse=True)
def old_lock(scenario: Scenario, before: dict[str, str]) -> Iterator[None]:
    """Go back to the lock of what is served after each case, as somebody would who reverts a commit."""
    content = scenario.lock.read_bytes()
    yield
    scenario.lock.write_bytes(content)


def serves(host: Host) -> str:
    """Return the directory that the service on a host has, which it took when it started."""
    pid = host.run("systemctl show --property MainPID --value model-server")
    return host.run("readlink /proc/%s/cwd", pid)


def assert_as_before(scenario: Scenario, before: dict[str, str]) -> None:
    """Require that all hosts serve their first generation, whole, by the word of their own programs."""
    for host in scenario.hosts.values():
        assert host.current == "generations/1"
        assert host.sums() == before
        assert serves(host) == "/opt/models/generations/1"


def test_from_the_start(scenario: Scenario, before: dict[str, str]) -> None:
    assert tuple(scenario.hosts) == HOSTS
    assert_as_before(scenario, before)


def test_corrupt_content(scenario: Scenario, hub: Hub, before: dict[str, str]) -> None:
    """A bit of a shard is wrong on its way to one of the hosts."""
    scenario.relock(hub)
    with Hub(address=hub.address) as corrupt:
        corrupt.repositories.update(hub.repositories)
        corrupt.faults.add(Flip(offset=1000, path="*/model-00002-of-00003.safetensors"))
        endpoint = f"{{{{ '{corrupt.endpoint}' if inventory_hostname == 'debian13' else '{hub.endpoint}' }}}}"
        play = scenario.play("site", model_store_endpoint=endpoint)
    assert play.status != 0
    assert "SHA-256" in play.why("debian13")
    assert "model-00002-of-00003.safetensors of tiny" in play.why("debian13")
    assert "generation 1 is whole and served as before" in play.why("debian13")
    assert "debian13 failed" in play.why("debian12")
    assert_as_before(scenario, before)


def test_smoke_test_out_of_limits(scenario: Scenario, hub: Hub, before: dict[str, str]) -> None:
    """The new lock wants a model to be loaded faster than any disk can."""
    minilm, small = CATALOG
    smoke = {"limits": {"load_seconds": 0.000001}}
    scenario.relock(hub, model_catalog=[{**minilm, "smoke": smoke}, small])
    play = scenario.play("site", model_store_endpoint=hub.endpoint)
    assert play.status != 0
    assert "all-MiniLM-L6-v2: load_seconds: expected at most 1e-06, found" in play.why("debian12")
    assert "generation 1 is whole and served as before" in play.why("debian12")
    assert "debian12 failed" in play.why("debian13")
    assert_as_before(scenario, before)


def test_failing_hook(scenario: Scenario, hub: Hub, before: dict[str, str]) -> None:
    """The service does not work with the new model, as the hook finds out after the switch."""
    scenario.relock(hub)
    play = scenario.play("site", model_store_endpoint=hub.endpoint, works_with=[before[SHARD]])
    assert play.status != 0
    for name in HOSTS:
        assert "restart.yml: Require what it is known to work with" in play.why(name)
        assert "generation 1 is whole and served as before" in play.why(name)
    assert_as_before(scenario, before)


def test_power_loss(scenario: Scenario, hub: Hub, before: dict[str, str]) -> None:
    """A host loses its power while it receives; it boots with what it served, and the next run goes on from there."""
    scenario.relock(hub, model_catalog=[*CATALOG, {"name": "big", "repo_id": BIG, "smoke": {"skip": "numbers"}}])
    host = scenario.hosts["debian12"]
    with hub.fault(Slow(2 * MIB, path="*/weights.safetensors")):
        running = scenario.start("site", model_store_endpoint=hub.endpoint)
        # A line of the journal is a block that is flushed to the disk.
        while not host.run("cat /opt/models/partial/*.journal 2>/dev/null | grep ^[0-9] || true"):
            assert running.running, running.finish().output
            time.sleep(0.2)
        scenario.power_off("debian12")
        scenario.power_on("debian12")
        play = running.finish()
    assert play.status != 0
    assert play.ended("debian12") != "ok"
    assert "msg: " in play.why("debian12")
    assert "debian12 failed" in play.why("debian13")
    assert_as_before(scenario, before)
    assert host.run("ls /opt/models/partial") != ""

    hub.stats.reset()
    scenario.ok("site", model_store_endpoint=hub.endpoint)
    size = (big(scenario.directory / "models", 1) / "weights.safetensors").stat().st_size
    # The other host may have had all of it.
    assert 0 < hub.stats.bytes_sent(path="*/weights.safetensors") < 2 * size - 12 * MIB
    for name, store in scenario.stores().items():
        assert store["generations"][store["current"].partition("/")[2]] == scenario.locked(), name
        assert store["partial"] == []
        assert serves(scenario.hosts[name]) == f"/opt/models/{store['current']}"
    again = scenario.ok("site", model_store_endpoint=hub.endpoint)
    assert [again.recap(name)["changed"] for name in HOSTS] == [0, 0]

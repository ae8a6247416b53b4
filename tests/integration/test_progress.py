# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Long work is shown while it goes on, survives the connection and the control node, and can be stopped."""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub import Hub
from tests.hub.faults import Slow
from tests.integration.harness import (
    TOKEN,
    Host,
    assert_not_fetched_again,
    locked,
    sha256_of,
    wait_until,
)
from tests.integration.test_security import CommandLines, files_with
from tests.integration.watched import Play, Sshd, Watched, gone, screen, seconds_until, sshd

LINE = re.compile(r"^gpu-1: receiving weights\.safetensors of big, \d+ %, [\d.]+ MB/s, \d+:\d\d left$", re.MULTILINE)


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose path is short enough for a socket's; ssh removes that when its connection breaks."""
    with tempfile.TemporaryDirectory(prefix="gf-", ignore_cleanup_errors=True) as path:
        yield Path(path)


@pytest.fixture
def server(short: Path, tmp_path: Path) -> Iterator[Sshd]:
    with sshd(short, tmp_path / "tmp") as server:
        yield server


@pytest.fixture(params=["local", "ssh"])
def watched(request: pytest.FixtureRequest, hub: Hub, tmp_path: Path) -> Watched:
    """A host that is reached without, or with a network."""
    (tmp_path / "tmp").mkdir()
    if request.param == "local":
        return Watched(hub, tmp_path, {"ansible_connection": "local"})
    return Watched(hub, tmp_path, request.getfixturevalue("server").variables)


@pytest.fixture
def near(hub: Hub, tmp_path: Path) -> Watched:
    """A host that is this machine."""
    return Watched(hub, tmp_path, {"ansible_connection": "local"})


def host_of(watched: Watched) -> Host:
    """Return the host to look at its store by other means."""
    host = Host(watched.hub, watched.directory / "looking")
    host.root = watched.root()
    return host


def slowly(hub: Hub, seconds: float, big: dict[str, Any]) -> Slow:
    """Let a transfer over one connection take about so long."""
    size = sum(file["size"] for file in big["files"])
    fault = Slow(int(size / seconds), origin="cdn")
    hub.faults.add(fault)
    return fault


def test_lines_on_a_pipe(watched: Watched, hub: Hub, big: dict[str, Any]) -> None:
    slowly(hub, 9, big)
    play = watched.start("model_generation", models=[big], connections=1)
    assert play.finish() == 0, play.all
    assert 1 <= len(LINE.findall(play.errors)) <= 4, play.all
    # Standard output is for the result, which may be JSON.
    assert "MB/s" not in play.text
    assert "changed=1" in play.text
    host_of(watched).assert_serves(big, generation=1)
    watched.assert_nothing_left()
    assert hub.stats.repeated_bytes() == 0


def test_what_concerns_the_action_plugin_alone_is_not_shown(
    near: Watched, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]
) -> None:
    """With -vvv Ansible prints all that a module returned, and what it was given."""
    slowly(hub, 6, big)
    detached = near.start("model_generation", "-vvv", models=[big], connections=1)
    assert detached.finish() == 0, detached.all
    assert LINE.search(detached.errors), detached.all
    in_one_call = near.start("model_generation", "-vvv", models=[big, tiny])
    assert in_one_call.finish() == 0, in_one_call.all
    for play in (detached, in_one_call):
        shown = re.findall(r"^ +(\w+):", play.text, re.MULTILINE)
        assert "module_args" in shown
        assert not {"_work", "gpufleet_work"} & set(shown)


def test_ctrl_c_stops_the_host(watched: Watched, hub: Hub, big: dict[str, Any]) -> None:
    """Within five seconds nothing goes on there; what was received is kept."""
    sha256 = sha256_of(big, "weights.safetensors")
    fault = slowly(hub, 25, big)
    play = watched.start("model_generation", columns=100, models=[big], connections=1)
    host = host_of(watched)
    wait_until(lambda: bool(host.journal(sha256)), "a block is journalled")
    wait_until(lambda: "receiving" in play.text, "progress is shown")
    pid = watched.wait_for_work()
    play.press_ctrl_c()
    assert seconds_until(lambda: gone(pid), 20) < 5
    assert play.finish() == 99
    assert "gpu-1: stopped; what was received is kept" in play.text
    watched.assert_nothing_left()

    hub.faults.remove(fault)
    journals = host.journals(big)
    assert journals[sha256]
    hub.stats.reset()
    again = watched.start("model_generation", models=[big])
    assert again.finish() == 0, again.all
    assert_not_fetched_again(hub, journals, big)
    host.assert_serves(big, generation=1)


def test_sigterm_stops_the_host(near: Watched, hub: Hub, big: dict[str, Any]) -> None:
    slowly(hub, 25, big)
    play = near.start("model_generation", models=[big], connections=1)
    pid = near.wait_for_work()
    os.kill(play.pid, signal.SIGTERM)
    assert seconds_until(lambda: gone(pid), 20) < 5
    assert play.finish() == -signal.SIGTERM
    wait_until(lambda: not near.records(), "it is forgotten")
    near.assert_nothing_left()


def cancel(watched: Watched, pid: int) -> Play:
    """Cancel the work; require that it is gone within five seconds, and those in which Ansible comes to the host."""

    def measure(*options: str) -> tuple[Play, float]:
        """Do the same without the stopping: what Ansible takes on this machine, at this moment."""
        begun = time.monotonic()
        return watched.run_book("gpufleet.models.cancel", *options), time.monotonic() - begun

    looked, before = measure("--check")
    assert f"(process {pid})" in looked.text
    assert not gone(pid)
    begun = time.monotonic()
    play = watched.start_book("gpufleet.models.cancel")
    wait_until(lambda: gone(pid), "the work is gone")
    took = time.monotonic() - begun
    assert play.finish() == 0, play.all
    again, after = measure()
    assert "nothing goes on in" in again.text
    assert "changed=0" in again.text
    # Other tests may have begun or ended meanwhile.
    assert took < max(before, after) + 5
    return play


def test_cancel(watched: Watched, hub: Hub, big: dict[str, Any]) -> None:
    slowly(hub, 60, big)
    play = watched.start("model_generation", models=[big], connections=1)
    pid = watched.wait_for_work()
    stopped = cancel(watched, pid)
    assert f"stop stage (process {pid}); what was received is kept" in stopped.text
    assert "changed=1" in stopped.text
    assert play.finish() == 2
    assert "stopped by a signal; run it again to go on; nothing is served as before" in " ".join(play.text.split())
    watched.assert_nothing_left()


def test_cancel_where_there_is_no_store(near: Watched) -> None:
    assert "nothing goes on in" in near.run_book("gpufleet.models.cancel").text
    assert not near.root().exists()


@pytest.mark.parametrize(
    ("watched", "dies"), [("ssh", "control node"), ("local", "ansible-playbook")], indirect=["watched"]
)
def test_control_node_that_dies(watched: Watched, dies: str, hub: Hub, big: dict[str, Any]) -> None:
    """The work goes on. As nobody asks for it any more, the next run waits for it, however long it takes."""
    slowly(hub, 30, big)
    play = watched.start("model_generation", models=[big], connections=1)
    pid = watched.wait_for_work()
    wait_until(lambda: "receiving" in play.errors, "progress is shown")
    if dies == "control node":
        play.lose_power()
    else:
        started = play.die()
        assert started
        assert seconds_until(lambda: all(map(gone, started))) < 3 + 5, "a process asks on for a run that is not there"
        assert play.finish() == -signal.SIGKILL
        assert "stopped" not in play.errors
    assert not gone(pid)
    begun = time.monotonic()
    again = watched.start("model_generation", models=[big], lock_timeout=15)
    assert again.finish() == 0, again.all
    assert time.monotonic() - begun > 15
    assert "gpu-1: waits for another run: weights.safetensors of big" in again.errors
    assert "changed=0" in again.text
    host_of(watched).assert_serves(big, generation=1)
    assert hub.stats.repeated_bytes() == 0
    left = [path.stem for path in (watched.root() / "work").iterdir()]
    assert len(set(left)) == 1, "what the first run left, which nobody has asked for"


def test_another_run(near: Watched, hub: Hub, big: dict[str, Any]) -> None:
    """A second run says whom it waits for, and no longer than it may; stopping it leaves the first one alone."""
    fault = slowly(hub, 90, big)
    first = near.start("model_generation", models=[big], connections=1)
    pid = near.wait_for_work()
    second = near.start("model_generation", models=[big], lock_timeout=5)
    assert second.finish() == 2
    assert "gpu-1: waits for another run: weights.safetensors of big, " in second.errors
    said = " ".join(second.text.split())
    assert f"is in use by model_generation (process {pid} on " in said
    assert "waited 5 s for it: try again later, or with a longer lock_timeout; nothing is served as before" in said
    assert [record["process"][1] for record in near.records()] == [pid]

    third = near.start("model_generation", columns=100, models=[big], lock_timeout=600)
    wait_until(lambda: "waits for another run" in third.text, "the third one waits")
    third.press_ctrl_c()
    assert third.finish() == 99
    assert not gone(pid)
    fourth = near.start("model_generation", models=[big], lock_timeout=600)
    wait_until(lambda: "waits for another run" in fourth.errors, "the fourth one waits")
    hub.faults.remove(fault)
    assert first.finish() == 0, first.all
    assert fourth.finish() == 0, fourth.all
    assert ("changed=1" in first.text, "changed=0" in fourth.text) == (True, True)
    host_of(near).assert_serves(big, generation=1)
    assert hub.stats.repeated_bytes() == 0
    near.assert_nothing_left()


def test_connection_that_breaks(server: Sshd, hub: Hub, tmp_path: Path, big: dict[str, Any]) -> None:
    (tmp_path / "tmp").mkdir()
    watched = Watched(hub, tmp_path, server.variables)
    slowly(hub, 20, big)
    play = watched.start("model_generation", models=[big], connections=1)
    pid = watched.wait_for_work()
    wait_until(lambda: "receiving" in play.errors, "progress is shown")
    server.stop()
    wait_until(lambda: "the work goes on there" in play.errors, "the connection is missed")
    assert not gone(pid)
    server.start()
    assert play.finish() == 0, play.all
    assert "changed=1" in play.text
    host_of(watched).assert_serves(big, generation=1)
    assert hub.stats.repeated_bytes() == 0
    watched.assert_nothing_left()


def test_full_disk(serving: Host, tiny: dict[str, Any]) -> None:
    """Where work cannot be told of, nobody could find it again: it is done while its caller waits."""
    serving.prefix = ("prlimit", "--fsize=0")
    result = serving.ok(serving.run("model_verify", _work="0" * 16))
    assert len(result.verified) == len(tiny["files"])
    assert list((serving.root / "work").iterdir()) == []


def test_process_that_is_killed(watched: Watched, hub: Hub, big: dict[str, Any]) -> None:
    slowly(hub, 25, big)
    play = watched.start("model_generation", models=[big], connections=1)
    os.kill(watched.wait_for_work(), signal.SIGKILL)
    assert play.finish() == 2
    said = " ".join(play.text.split())
    assert "was killed or crashed" in said
    assert "run it again to go on" in said
    assert list((watched.root() / "work").iterdir()) == []


def test_timeout_of_a_transfer(near: Watched, hub: Hub, big: dict[str, Any]) -> None:
    slowly(hub, 25, big)
    play = near.start("model_generation", models=[big], connections=1, timeout=4)
    assert play.finish() == 2
    assert "not complete after the timeout of 4 s; what was received is kept" in " ".join(play.text.split())
    near.assert_nothing_left()


def test_timeout_of_the_task(near: Watched, hub: Hub, big: dict[str, Any]) -> None:
    """It is Ansible's own, which knows nothing of what goes on detached."""
    slowly(hub, 40, big)
    play = near.start("model_generation", models=[big], connections=1, keywords={"timeout": 10})
    pid = near.wait_for_work()
    assert seconds_until(lambda: gone(pid)) < 10 + 5
    assert play.finish() == 2
    assert "Timed out after 10 second(s)." in " ".join(play.text.split())
    assert "gpu-1: stopped; what was received is kept" in play.errors
    near.assert_nothing_left()


def test_host_whose_python_does_not_start_any_more(hub: Hub, tmp_path: Path, big: dict[str, Any]) -> None:
    """Its play ends instead of asking for ever, and says how to stop what goes on there."""
    broken, python = tmp_path / "broken", tmp_path / "python"
    python.write_text(f'#!/bin/sh\ntest ! -e {broken} || exit 127\nexec {sys.executable} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    watched = Watched(hub, tmp_path, {"ansible_connection": "local", "ansible_python_interpreter": str(python)})
    slowly(hub, 90, big)
    play = watched.start("model_generation", models=[big], connections=1)
    pid = watched.wait_for_work()
    broken.touch()
    assert play.finish() == 2
    assert "gpu-1: could not be told to stop; run the playbook gpufleet.models.cancel (" in play.errors
    assert not gone(pid)
    broken.unlink()
    assert f"stop stage (process {pid})" in watched.run_book("gpufleet.models.cancel").text
    assert gone(pid)


@pytest.fixture
def huge(hub: Hub, tmp_path: Path) -> dict[str, Any]:
    """A model that takes long enough to hash for somebody to look."""
    source = tmp_path / "huge"
    source.mkdir()
    with (source / "huge.bin").open("wb") as stream:
        stream.truncate(1 << 30)
    hub.add_repo("acme/huge", source)
    return locked(hub, "huge", "acme/huge", source)


def test_verification(near: Watched, huge: dict[str, Any]) -> None:
    """It is shown, has its time limit, and can be stopped even where it does not listen."""
    staged = near.start("model_generation", models=[huge])
    assert staged.finish() == 0, staged.all

    play = near.start("model_verify")
    pid = near.wait_for_work()
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: "gpu-1: verifying huge.bin of huge, " in play.errors, "progress is shown")
    os.kill(pid, signal.SIGCONT)
    assert play.finish() == 0, play.all
    near.assert_nothing_left()

    play = near.start("model_verify", timeout=0.1)
    assert play.finish() == 2
    assert "not complete after the timeout of 0.1 s; allow more time, or verify a part" in " ".join(play.text.split())

    play = near.start("model_verify")
    pid = near.wait_for_work()
    os.kill(pid, signal.SIGSTOP)
    assert "stop verify" in cancel(near, pid).text
    assert play.finish() == 2
    assert "was killed or crashed" in " ".join(play.text.split())


def test_async_and_ad_hoc(near: Watched, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    """With async as with any module; without a playbook as with one."""
    slowly(hub, 6, big)
    play = near.start("model_generation", models=[big], connections=1, keywords={"async": 60, "poll": 1})
    assert play.finish() == 0, play.all
    assert "changed=1" in play.text
    assert "MB/s" not in play.all
    near.assert_nothing_left()
    play = near.start_ad_hoc("model_generation", models=[tiny])
    assert play.finish() == 0, play.all
    assert "gpu-1 | CHANGED" in play.text
    host_of(near).assert_serves(tiny, generation=2)


def test_table_on_a_terminal(near: Watched, hub: Hub, big: dict[str, Any]) -> None:
    near.hosts = ["gpu-1", "gpu-22"]
    slowly(hub, 10, big)
    play = near.start("model_generation", columns=80, models=[big], connections=1)
    assert play.finish() == 0, play.all
    drawn = [part for part in play.text.split("\x1b[J") if "receiving" in part]
    shown = screen(drawn[-1], 80)
    assert shown[0] == ""
    assert re.fullmatch(r"host    doing +% +MB/s +left", shown[1]), shown
    for line, host in zip(shown[2:], near.hosts, strict=False):
        assert re.fullmatch(rf"{host} +receiving weights\.safetensors of big +\d+ +[\d.]+ +\d:\d\d", line), shown
        assert len(line) < 80
    after = screen(play.text, 80)
    results = [line for line in after if line.startswith(("changed:", "ok:"))]
    assert sorted(results) == ["changed: [gpu-1]", "changed: [gpu-22]"]
    assert not any("receiving" in line or "MB/s" in line for line in after)
    near.assert_nothing_left()


def test_token_is_nowhere_while_it_goes_on(watched: Watched, hub: Hub, big_directory: Path, tmp_path: Path) -> None:
    hub.add_repo("acme/gated", big_directory, gated=True, readers=[TOKEN])
    model = locked(hub, "big", "acme/gated", big_directory)
    slowly(hub, 8, model)
    (tmp_path / "elsewhere").mkdir()
    with CommandLines(TOKEN) as watch:
        play = watched.start("model_generation", models=[model], token=TOKEN, connections=1)
        watched.wait_for_work()
        (tmp_path / "play.yml").unlink()
        wait_until(lambda: "receiving" in play.errors, "progress is shown")
        assert files_with(TOKEN, tmp_path) == []
        assert play.finish() == 0, play.all
    assert watch.found == []
    assert TOKEN not in play.all
    watched.assert_nothing_left()

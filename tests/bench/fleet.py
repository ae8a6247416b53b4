# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Measure what 1 to 32 hosts cost the control node: `python -m tests.bench.fleet` puts it into ``docs/benchmarks.md``.

The hosts are containers with systemd on this machine, reached over SSH, as in the Molecule scenarios: control node and
hosts share its processor.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from .__main__ import DOCUMENT
from .process import ROOT, BenchError, Command, Usage, environment, run, run_benchmark, typical
from .report import Report, Row, Target, around_figures, describe_fleet_machine
from .workloads import running_hub, write_small_files, write_weights

GATEWAY = "10.77.31.1"  # as in molecule/hosts/vars/common.yml
PEER = "stat and get_url for each file"
WEIGHTS = 64  # MiB
FILES = 20  # of each of the four models


@dataclass(frozen=True)
class Fleet:
    """Hosts that serve four models, and how to run playbooks on some of them."""

    directory: Path
    environ: dict[str, str]
    endpoint: str = ""

    @property
    def inventory(self) -> Path:
        """The inventory that the hosts are in."""
        return self.directory / "fleet" / "hosts.yml"

    def playbook(self, playbook: str, count: int, **variables: object) -> Command:
        """Return the command that runs a playbook on so many hosts."""
        command = ["ansible-playbook", "-i", str(self.inventory), playbook, "--limit", f"gpu[0:{count - 1}]"]
        return [*command, "-e", json.dumps(variables)] if variables else command

    def measure(self, command: Command, count: int) -> Usage:
        """Run a command that must change nothing on any of its hosts; return what it cost the control node."""
        usage, text = run(command, self.environ)
        recaps = re.findall(r"^host-\d+ .*ok=[1-9].* changed=0 .*unreachable=0 .*failed=0", text, re.MULTILINE)
        if len(recaps) != count:
            raise BenchError(f"expected {count} hosts without a change, found {len(recaps)}:\n{text[-4000:]}")
        return usage


@contextlib.contextmanager
def running_fleet(directory: Path, count: int) -> Iterator[Fleet]:
    """Start hosts, let them serve four models of twenty files from a local Hub, and remove them afterwards."""
    scenario = directory / "scenario"
    machines = [
        {"name": f"host-{number:02}", "suite": "trixie", "address": f"10.77.31.{120 + number}"}
        for number in range(1, count + 1)
    ]
    _write_yaml(scenario / "vars/scenario.yml", {"machines": machines})
    names = [f"many-{number}" for number in range(1, 5)]
    variables = {
        "model_catalog": [{"name": name, "repo_id": f"bench/{name}"} for name in names],
        "model_store_smoke": "off",  # the files are random: nothing could run them
    }
    _write_yaml(scenario / "group_vars/gpu.yml", variables)
    for name in names:
        write_small_files(directory / "sources" / name, FILES - 1 if name == names[0] else FILES)
    write_weights(directory / "sources" / names[0] / "model.safetensors", WEIGHTS, 1)
    # A socket's path must be short.
    with tempfile.TemporaryDirectory() as sockets:
        environ = {
            **environment(directory / "home", ""),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": sockets,
            "MOLECULE_EPHEMERAL_DIRECTORY": str(directory),
            "MOLECULE_PROJECT_DIRECTORY": str(ROOT),
            "MOLECULE_SCENARIO_DIRECTORY": str(scenario),
            "MOLECULE_SCENARIO_NAME": "bench",
            **{name: value for name, value in os.environ.items() if name == "SSL_CERT_FILE"},
        }
        fleet = Fleet(directory, environ)
        manage = ["ansible-playbook", "-i", str(fleet.inventory)]
        try:
            run([*manage, "molecule/hosts/create.yml"], environ)
            with running_hub(directory, "--address", GATEWAY) as endpoint:
                for name in ("lock", "site"):
                    run(fleet.playbook(f"gpufleet.models.{name}", count, model_store_endpoint=endpoint), environ)
                yield replace(fleet, endpoint=endpoint)
        finally:
            run([*manage, "molecule/hosts/destroy.yml"], environ)


def peer_playbook(fleet: Fleet) -> Path:
    """Write what one would without the collection: look at each file, fetch it where it is not as it should be."""
    lock = json.loads((fleet.inventory.parent / "models.lock.json").read_text(encoding="utf-8"))
    files = [
        {
            "url": f"{fleet.endpoint}/{model['repo_id']}/resolve/{model['commit']}/{file['path']}",
            "dest": f"/srv/peer/{model['name']}/{file['path']}",
            "size": file["size"],
            "sha256": file["sha256"],
        }
        for model in lock["models"]
        for file in model["files"]
    ]
    # It looks at sizes alone, as the quick look of site.yml does: no byte of any file is read.
    stat = {"path": "{{ item.dest }}", "get_checksum": False, "get_mime": False, "get_attributes": False}
    url = {"url": "{{ item.item.url }}", "dest": "{{ item.item.dest }}", "checksum": "sha256:{{ item.item.sha256 }}"}
    tasks = [
        {"ansible.builtin.stat": stat, "loop": files, "register": "found"},
        {
            "ansible.builtin.get_url": url,
            "loop": "{{ found.results }}",
            "when": "not item.stat.exists or item.stat.size != item.item.size",
        },
    ]
    play = {"hosts": "gpu", "gather_facts": False, "tasks": tasks}
    path = fleet.directory / "peer.json"
    path.write_text(json.dumps([play]), encoding="utf-8")
    return path


def measure(arguments: argparse.Namespace) -> None:
    """Measure what the arguments ask for, and leave nothing behind."""
    around_figures(DOCUMENT, "fleet")
    arguments.directory.mkdir(parents=True, exist_ok=True)
    report = Report(describe_fleet_machine(arguments.runs))
    if os.getloadavg()[0] > 0.5:
        print("The machine is busy: these figures are not worth publishing.", file=sys.stderr)
    with (
        tempfile.TemporaryDirectory(dir=arguments.directory) as directory,
        running_fleet(Path(directory), max(arguments.hosts)) as fleet,
    ):
        peer = str(peer_playbook(fleet))
        # It has the same files, so that it has as little to do.
        copy = "mkdir -p /srv/peer && cp -rL /opt/models/current/. /srv/peer"
        run(["ansible", "-i", str(fleet.inventory), "gpu", "-m", "ansible.builtin.shell", "-a", copy], fleet.environ)
        per_host: dict[int, float] = {}
        for count in arguments.hosts:
            work = {
                f"No-op site.yml, 4 models of {FILES} files": fleet.playbook("gpufleet.models.site", count),
                "Quick verify of the same": fleet.playbook(
                    "gpufleet.models.verify", count, model_store_verify_mode="quick"
                ),
                f"Full verify of the same, {WEIGHTS} MiB": fleet.playbook("gpufleet.models.verify", count),
            }
            usages = {
                name: [fleet.measure(command, count) for _run in range(arguments.runs)]
                for name, command in work.items()
            }
            for name, found in usages.items():
                _add(report, f"{name}, {_hosts(count)}", "gpufleet.models", found, count)
            ours = next(iter(usages.values()))
            per_host[count] = typical(ours).cpu_seconds / count
            if count <= arguments.peer_hosts:
                theirs = [fleet.measure(fleet.playbook(peer, count), count)]
                name = f"No-op, 4 models of {FILES} files, {_hosts(count)}"
                _add(report, name, PEER, theirs, count)
                times = theirs[0].seconds / typical(ours).seconds
                report.targets.append(Target(name, f"at least 5 times {PEER}", f"{times:.1f} times", times >= 5))
    fewest, *_between, most = arguments.hosts
    change = per_host[most] / per_host[fewest]
    report.targets.append(
        Target(
            f"CPU of the control node for each host, no-op site.yml, {most} hosts against {_hosts(fewest)}",
            "at most the same",
            f"{change:.2f} times",
            change <= 1.05,
        )
    )
    print(f"\n{report.markdown()}")
    if not arguments.quick:
        report.write_into(DOCUMENT, "fleet")


def _add(report: Report, scenario: str, peer: str, usages: list[Usage], count: int) -> None:
    usage = typical(usages)
    remark = f"for each host {usage.seconds / count:.2f} s, {usage.cpu_seconds / count:.2f} s of CPU"
    report.add(Row(scenario, peer, usages, None, remark))


def _hosts(count: int) -> str:
    return "1 host" if count == 1 else f"{count} hosts"


def _write_yaml(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fleet", description=__doc__)
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 4, 16, 32], help="how many, ascending")
    parser.add_argument("--peer-hosts", type=int, default=4, help="the most that the other playbook is measured with")
    parser.add_argument("--runs", type=int, default=3, help="runs of each; of the other playbook it is one")
    parser.add_argument("--directory", type=Path, default=ROOT / ".cache" / "bench", help="where to work")
    parser.add_argument("--quick", action="store_true", help="try it out: no document is written")
    arguments = parser.parse_args()
    run_benchmark(lambda: measure(arguments))


if __name__ == "__main__":
    main()

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The verifier as a host runs it at night, and Prometheus' own tools to judge what it says."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.gpufleet.models.plugins.plugin_utils._zipapp import build
from tests.integration.harness import CHECKOUT, Host, environment, wait_until

TOOLS = CHECKOUT / ".cache" / "prometheus" / "bin"


def tool(name: str) -> str:
    """Return the path of one of Prometheus' programs."""
    path = TOOLS / name
    assert path.exists(), f"{path} is missing; run: sh tests/tools/prometheus.sh"
    return str(path)


def promtool(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    return subprocess.run(
        [tool("promtool"), *arguments], input=text, capture_output=True, text=True, check=False, cwd=CHECKOUT
    )


class Night:
    """The verifier of one host, installed where the service may write."""

    def __init__(self, host: Host) -> None:
        self.host = host
        directory = host.home.parent / "verifier"
        directory.mkdir()
        self.program = directory / "gpufleet-verify.pyz"
        self.program.write_bytes(build("_verifier"))
        self.metrics = directory / "gpufleet_models.prom"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-I", self.program, "--root", self.host.root, "--metrics", self.metrics, *arguments],
            env=environment(self.host.home),
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run it to its end; return its status, and the one line that it said where it had to be said."""
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=60)
        assert "Traceback" not in errors, errors
        said, other = (output, errors) if process.returncode == 0 else (errors, output)
        assert other == ""
        assert said.count("\n") == 1, said
        return process.returncode, said.strip()

    def value(self, name: str, model: str | None = None) -> float | None:
        """Return what the metrics say, None when they do not."""
        labels = r"\{[^}]*\}" if model is None else rf'\{{model="{model}",[^}}]*\}}'
        found = re.search(rf"^gpufleet_{name}(?:{labels})? (\S+)$", self.metrics.read_text(), re.MULTILINE)
        return None if found is None else float(found.group(1))


@contextlib.contextmanager
def node_exporter(textfiles: Path) -> Iterator[str]:
    """Run Prometheus' node_exporter with nothing but its collector of text files; give its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    process = subprocess.Popen(
        [
            tool("prometheus-node-exporter"),
            f"--web.listen-address={address}",
            "--web.disable-exporter-metrics",
            "--collector.disable-defaults",
            "--collector.textfile",
            f"--collector.textfile.directory={textfiles}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: process.poll() is not None or _answers(address), "node_exporter listens")
        assert process.poll() is None, "node_exporter ended at once"
        yield f"http://{address}/metrics"
    finally:
        process.terminate()
        process.wait()


def _answers(address: str) -> bool:
    host, port = address.split(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
        return True
    return False


def scrape(url: str) -> str:
    """Return what an exporter says, as Prometheus would fetch it."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as response:
        text: str = response.read().decode()
    return text

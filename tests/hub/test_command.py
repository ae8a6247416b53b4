"""The Hub as a process of its own."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hub.client import fetch
from tests.hub.conftest import REPO

ROOT = Path(__file__).parents[2]


def test_serve_and_stop(model: Path, tmp_path: Path) -> None:
    port_file = tmp_path / "hub.json"
    options = ["--port-file", str(port_file), "--rate", "1e9", "--delay", "0.01", "--token", "hf_x"]
    command = [sys.executable, "-m", "tests.hub", "--repo", f"{REPO}={model}", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            endpoint = process.stdout.readline().strip()
            ports = json.loads(port_file.read_text(encoding="utf-8"))
            assert ports["endpoint"] == endpoint
            assert ports["pid"] == process.pid
            started = time.monotonic()
            reply = fetch(f"{endpoint}/{REPO}/resolve/main/tiny-Q4_0.gguf", {"Authorization": "Bearer hf_x"})
            assert time.monotonic() - started >= 0.01
            assert reply.headers["Location"].startswith(ports["cdn"])
            expected = hashlib.sha256((model / "tiny-Q4_0.gguf").read_bytes()).hexdigest()
            assert hashlib.sha256(fetch(reply.headers["Location"]).body).hexdigest() == expected
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


@pytest.mark.parametrize("argument", ["acme/tiny", "acme/tiny=", "acme/tiny=/nowhere"])
def test_a_repository_without_a_directory(argument: str) -> None:
    command = [sys.executable, "-m", "tests.hub", "--repo", argument]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 2
    assert "names no directory" in result.stderr

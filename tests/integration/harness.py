# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Running a module as a process of its own, and looking at what it left on disk without the engine's help."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hub import Hub
from tests.hub.stats import Exchange

CHECKOUT = Path(__file__).resolve().parents[2]
BLOCK = 16 * 1024 * 1024

# Distinctive, so that finding it anywhere is no accident.
TOKEN = "hf_QxZ7tokenNobodyMayEverSee93Kd"

_CRASHED = "ended without a result"

# Nothing of the machine that runs the tests may decide what a module does.
_FOREIGN = ("HF_", "UV_", "ANSIBLE_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "PYTHON", "PYTEST_")


def environment(home: Path, **variables: str) -> dict[str, str]:
    """Return the environment for a process whose home directory is ``home``."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(_FOREIGN)}
    return {
        **kept,
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(CHECKOUT / ".collections"),
        **variables,
    }


@dataclass(frozen=True)
class Result:
    """What a module said when it ended. ``output`` is everything that it printed."""

    status: int
    values: dict[str, Any]
    output: str
    seconds: float

    def __getattr__(self, name: str) -> Any:
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(f"{name} is not in the result {self.values}") from None

    @property
    def failed(self) -> bool:
        return bool(self.values.get("failed"))

    @property
    def changed(self) -> bool:
        return bool(self.values.get("changed"))


class ModuleProcess:
    """A module that runs: its arguments come through standard input, as with pipelining."""

    def __init__(self, name: str, arguments: dict[str, Any], env: dict[str, str], prefix: tuple[str, ...] = ()) -> None:
        self._started = time.monotonic()
        command = [*prefix, sys.executable, "-m", f"ansible_collections.gpufleet.models.plugins.modules.{name}"]
        pipe = subprocess.PIPE
        self.popen = subprocess.Popen(
            command, env=env, cwd=env["HOME"], stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}))
        self.popen.stdin.close()
        self.popen.stdin = None

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def kill(self) -> bool:
        """Send SIGKILL; return whether it came before the process ended by itself."""
        self.popen.kill()
        self.popen.communicate()
        return self.popen.returncode == -signal.SIGKILL

    def finish(self, timeout: float = 60) -> Result:
        try:
            output, errors = self.popen.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            output, errors = self.popen.communicate()
            raise AssertionError(f"still running after {timeout} s; it said {output!r} {errors!r}") from None
        lines = output.strip().splitlines()
        try:
            values = json.loads(lines[-1])
        except (IndexError, ValueError):
            # It crashed. Who expects a failure must not take that for one.
            values = {"failed": True, "msg": f"{_CRASHED}: {output} {errors}"}
        return Result(self.popen.returncode, values, output + errors, time.monotonic() - self._started)


class Host:
    """A host with a store, and a Hub to fill it from."""

    def __init__(self, hub: Hub, directory: Path) -> None:
        self.hub = hub
        self.home = directory / "home"
        self.home.mkdir(parents=True)
        self.root = directory / "store"
        self.lock_file = directory / "models.lock.json"
        self.variables: dict[str, str] = {}
        self.prefix: tuple[str, ...] = ()

    def start(self, module: str, **arguments: Any) -> ModuleProcess:
        """Start a module with the usual arguments and these; one that is None is left out."""
        usual: dict[str, Any] = {"root": str(self.root)}
        if module == "model_lock":
            usual = {"dest": str(self.lock_file), "timeout": 20}
        if module == "gpu_info":
            usual = {}
        if module in ("model_lock", "model_generation", "model_preflight", "model_verify"):
            usual["endpoint"] = self.hub.endpoint
        given = {name: value for name, value in {**usual, **arguments}.items() if value is not None}
        return ModuleProcess(module, given, environment(self.home, **self.variables), self.prefix)

    def run(self, module: str, **arguments: Any) -> Result:
        return self.start(module, **arguments).finish()

    def lock(self, *catalog: dict[str, Any], **arguments: Any) -> Result:
        return self.run("model_lock", catalog=list(catalog), **arguments)

    def locked_models(self) -> list[dict[str, Any]]:
        models: list[dict[str, Any]] = json.loads(self.lock_file.read_text(encoding="utf-8"))["models"]
        return models

    def generation(self, *models: dict[str, Any], **arguments: Any) -> Result:
        return self.run("model_generation", models=list(models) or None, **arguments)

    def start_generation(self, *models: dict[str, Any], **arguments: Any) -> ModuleProcess:
        return self.start("model_generation", models=list(models) or None, **arguments)

    def verify(self, **arguments: Any) -> Result:
        return self.run("model_verify", **arguments)

    def ok(self, result: Result) -> Result:
        """Require that a module succeeded."""
        assert not result.failed, result.values
        assert result.status == 0, result.output
        assert "Traceback" not in result.output
        return result

    def processes(self, command: str) -> list[int]:
        """Return the processes of this host, and of no other, that have this in their command line."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                mine = f"HOME={self.home}".encode() in (path / "environ").read_bytes().split(b"\0")
                if mine and command.encode() in (path / "cmdline").read_bytes().replace(b"\0", b" "):
                    found.append(int(path.name))
        return found

    # What is on disk.

    @property
    def current(self) -> str | None:
        """Where the link to what is served points."""
        link = self.root / "current"
        return str(link.readlink()) if link.is_symlink() else None

    def blob(self, sha256: str) -> Path:
        return self.root / "blobs" / sha256[:2] / sha256

    def journal(self, sha256: str) -> set[int]:
        """Return the blocks that a partial file's journal names."""
        try:
            lines = (self.root / "partial" / f"{sha256}.journal").read_text(encoding="ascii").splitlines()
        except FileNotFoundError:
            return set()
        return {int(line.split()[0]) for line in lines[1:] if len(line.split()) == 2}

    def journals(self, *models: dict[str, Any]) -> dict[str, set[int]]:
        """Return the journalled blocks of all files of some models, by SHA-256."""
        return {file["sha256"]: self.journal(file["sha256"]) for model in models for file in model["files"]}

    def assert_serves(self, *models: dict[str, Any], generation: int | None = None) -> None:
        """Require that exactly these models are served, whole, by the word of sha256sum."""
        current = self.root / "current"
        if generation is not None:
            assert self.current == f"generations/{generation}"
        expected = {f"{model['name']}/{file['path']}": file["sha256"] for model in models for file in model["files"]}
        found = sha256sums(current)
        found.pop(".generation.json")
        assert found == expected

    def generations(self) -> list[str]:
        try:
            return sorted(path.name for path in (self.root / "generations").iterdir())
        except FileNotFoundError:
            return []


def sha256sums(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a directory, by relative path, as coreutils computes it."""
    files = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    if not files:
        return {}
    # --zero keeps names as they are.
    listing = subprocess.run(
        ["sha256sum", "--zero", "--", *files], cwd=directory, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return {line[66:]: line[:64] for line in listing.split("\0") if line}


@functools.cache
def _source_digests(directory: Path) -> dict[str, str]:
    return sha256sums(directory)


def locked(hub: Hub, name: str, repo_id: str, directory: Path, revision: str = "main") -> dict[str, Any]:
    """Return a model of a lock, made from the directory that the Hub serves and without ``model_lock``."""
    commit = hub.repositories[repo_id].resolve(revision)
    assert commit is not None
    digests = _source_digests(directory)
    return {
        "name": name,
        "repo_id": repo_id,
        "revision": revision,
        "commit": commit.id,
        "files": [
            {"path": path, "size": (directory / path).stat().st_size, "sha256": sha256}
            for path, sha256 in digests.items()
        ],
    }


def sha256_of(model: dict[str, Any], path: str) -> str:
    """Return what a lock says of one of a model's files."""
    return next(file["sha256"] for file in model["files"] if file["path"] == path)


def assert_sentence(result: Result, *fragments: str) -> None:
    """Require that a module failed with one sentence that holds these fragments, and with no traceback."""
    assert result.failed, result.values
    assert result.status != 0
    message = result.msg
    assert not message.startswith(_CRASHED), message
    assert "Traceback" not in result.output, result.output
    assert "exception" not in result.values, result.values
    assert "\n" not in message, message
    assert len(message) < 1000, message
    for fragment in fragments:
        assert fragment in message, f"{fragment!r} is not in: {message}"


def served_parts(hub: Hub) -> Iterator[tuple[Exchange, int, int]]:
    """Yield every answer that carried bytes of a file, with the part of the file that it carried."""
    for exchange in hub.stats.exchanges(method="GET"):
        is_file = exchange.origin == "cdn" or "/resolve/" in exchange.path
        if is_file and exchange.status in (200, 206) and exchange.sent:
            yield exchange, exchange.start, exchange.start + exchange.sent


def assert_not_fetched_again(hub: Hub, journals: dict[str, set[int]], *models: dict[str, Any]) -> None:
    """Require that no byte of a journalled block was sent since the Hub's counters were reset."""
    for model in models:
        for file in model["files"]:
            blocks = journals.get(file["sha256"], set())
            for exchange, start, end in served_parts(hub):
                if not exchange.path.endswith(f"/{file['path']}"):
                    continue
                again = {index for index in blocks if start < (index + 1) * BLOCK and index * BLOCK < end}
                assert not again, f"blocks {again} of {file['path']} were journalled, and sent again: {exchange.range}"


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 30) -> None:
    """Wait for something that another process or the Hub brings about."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout} s in vain: {what}"
        time.sleep(0.005)


def snapshot(directory: Path) -> dict[str, tuple[Any, ...]]:
    """Return all that a tree is: kind, mode, owner, times and content of every entry."""
    entries: dict[str, tuple[Any, ...]] = {}
    for path in sorted([directory, *directory.rglob("*")]):
        status = path.lstat()
        content: object = None
        if stat.S_ISLNK(status.st_mode):
            content = str(path.readlink())
        elif stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        entries[path.relative_to(directory).as_posix()] = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_nlink,
            status.st_mtime_ns,
            content,
        )
    return entries


def flip(path: Path, *positions: int) -> None:
    """Let bits rot: change bytes of a file in place, and give it the time and the mode back that it had."""
    before = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as stream:
        for position in positions:
            stream.seek(position)
            byte = stream.read(1)
            stream.seek(position)
            stream.write(bytes([byte[0] ^ 0x10]))
    path.chmod(stat.S_IMODE(before.st_mode))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plays that go on while the test looks at them: on a pipe or on a terminal, over a real sshd on loopback."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path
from typing import Any

import yaml

from tests.hub import Hub
from tests.integration.harness import CHECKOUT, environment, wait_until

SSHD = "/usr/sbin/sshd"


class Sshd:
    """An sshd on loopback, which lets this account in.

    :param directory: A short path, as there are sockets below it.
    """

    def __init__(self, directory: Path, temporary: Path) -> None:
        self._directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
        (directory / "sshd.conf").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {directory}/user.pub\nStrictModes no\nPermitRootLogin yes\n"
            f"SetEnv TMPDIR={temporary}\nSubsystem sftp internal-sftp\n",
            encoding="utf-8",
        )
        self._popen: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def variables(self) -> dict[str, Any]:
        """What an inventory says of a host behind it."""
        return {
            "ansible_connection": "ssh",
            "ansible_host": "127.0.0.1",
            "ansible_port": self.port,
            "ansible_user": getpass.getuser(),
            "ansible_ssh_private_key_file": str(self._directory / "user"),
            "ansible_ssh_common_args": "-o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o LogLevel=ERROR",
            "ansible_control_path_dir": str(self._directory / "cp"),
            "ansible_ssh_timeout": 5,
        }

    def start(self) -> None:
        """Let connections in."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        command = [SSHD, "-D", "-f", str(self._directory / "sshd.conf"), "-E", str(self._directory / "log")]
        self._popen = subprocess.Popen(command)
        wait_until(self._answers, "sshd answers")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def stop(self) -> None:
        """Break all connections, and let none in."""
        assert self._popen is not None
        for pid in descendants(self._popen.pid):
            command = _command_of(pid)
            if command.startswith("sshd"):
                os.kill(pid, signal.SIGKILL)
        self._popen.kill()
        self._popen.wait()


def _command_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def descendants(pid: int) -> list[int]:
    """Return all processes that a process has started, and those that these have."""
    listing = subprocess.run(["ps", "-A", "-o", "ppid=,pid="], capture_output=True, text=True, check=True).stdout
    children: dict[int, list[int]] = {}
    for line in listing.splitlines():
        parent, child = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found, todo = [], [pid]
    while todo:
        new = children.get(todo.pop(), [])
        found.extend(new)
        todo.extend(new)
    return found


class Play:
    """An ``ansible-playbook`` that runs, and what it has printed so far."""

    def __init__(self, command: list[str], env: dict[str, str], cwd: Path, columns: int | None) -> None:
        self.text = ""
        self.errors = ""
        if columns is None:
            self._popen = subprocess.Popen(command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            assert self._popen.stdout is not None
            assert self._popen.stderr is not None
            self.pid, self._terminal = self._popen.pid, None
            streams = {self._popen.stdout.fileno(): "text", self._popen.stderr.fileno(): "errors"}
        else:
            self.pid, self._terminal = pty.fork()
            if not self.pid:
                os.chdir(cwd)
                os.execvpe(command[0], command, env)
            ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            streams = {self._terminal: "text"}
        self._reader = threading.Thread(target=self._read, args=(streams,), daemon=True)
        self._reader.start()

    def _read(self, streams: dict[int, str]) -> None:
        while streams:
            for descriptor in select.select(list(streams), [], [])[0]:
                chunk = b""
                with contextlib.suppress(OSError):  # a terminal that nobody has open any more
                    chunk = os.read(descriptor, 1 << 16)
                name = streams[descriptor]
                setattr(self, name, getattr(self, name) + chunk.decode())
                if not chunk:
                    del streams[descriptor]

    def press_ctrl_c(self) -> None:
        """Do what a person does at the terminal."""
        assert self._terminal is not None
        os.write(self._terminal, b"\x03")

    def lose_power(self) -> None:
        """Let the control node end, with all that it runs."""
        for pid in [*descendants(self.pid), self.pid]:
            if "model_" not in _command_of(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.finish()

    def die(self) -> list[int]:
        """Let Ansible's main process alone be killed, as when memory runs out; return what it had started."""
        started = descendants(self.pid)
        os.kill(self.pid, signal.SIGKILL)
        return started

    def finish(self) -> int:
        """Wait for its end; return its exit status, negative for a signal."""
        if self._terminal is None:
            status = self._popen.wait(timeout=120)
        else:
            status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self._reader.join(timeout=10)
        if self._terminal is not None:
            os.close(self._terminal)
        return status

    @property
    def all(self) -> str:
        return f"{self.text}{self.errors}"


class Watched:
    """Hosts that are this machine, and plays on them."""

    def __init__(self, hub: Hub, directory: Path, connection: dict[str, Any]) -> None:
        self.hub = hub
        self.home = directory / "home"
        self.home.mkdir()
        self.temporary = directory / "tmp"
        self.temporary.mkdir(exist_ok=True)
        self.directory = directory
        self.connection = connection
        self.hosts = ["gpu-1"]

    def root(self, host: str = "gpu-1") -> Path:
        """Return where a host's store is."""
        return self.directory / f"store-{host}"

    def start(
        self,
        module: str,
        *options: str,
        columns: int | None = None,
        keywords: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> Play:
        """Start a play that runs a module on the hosts, by default on a pipe."""
        usual = {"root": f"{self.directory}/store-{{{{ inventory_hostname }}}}", "endpoint": self.hub.endpoint}
        task = {"name": "Work", f"gpufleet.models.{module}": {**usual, **arguments}, **(keywords or {})}
        book = self.directory / "play.yml"
        book.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": [task]}]), encoding="utf-8")
        return self.start_book(str(book), *options, columns=columns)

    def start_book(self, book: str, *options: str, columns: int | None = None) -> Play:
        """Start a playbook."""
        return self._start(["ansible-playbook", *options, book], columns)

    def start_ad_hoc(self, module: str, **arguments: Any) -> Play:
        """Start a module without a playbook."""
        usual = {"root": str(self.root()), "endpoint": self.hub.endpoint}
        return self._start(
            ["ansible", "all", "-m", f"gpufleet.models.{module}", "-a", json.dumps({**usual, **arguments})], None
        )

    def _start(self, command: list[str], columns: int | None) -> Play:
        inventory = self.directory / "hosts.json"
        variables = {
            "ansible_python_interpreter": sys.executable,
            "ansible_async_dir": str(self.directory / "async"),
            "model_store_root": f"{self.directory}/store-{{{{ inventory_hostname }}}}",
            **self.connection,
        }
        content = {"all": {"hosts": {host: {} for host in self.hosts}, "vars": variables}}
        inventory.write_text(json.dumps(content), encoding="utf-8")
        env = environment(
            self.home,
            ANSIBLE_CONFIG=str(CHECKOUT / "ansible.cfg"),
            ANSIBLE_COLLECTIONS_PATH=str(CHECKOUT / ".collections"),
            TMPDIR=str(self.temporary),
            TERM="xterm",
        )
        return Play([command[0], "-i", str(inventory), *command[1:]], env, self.directory, columns)

    def run_book(self, book: str, *options: str) -> Play:
        """Run a playbook to its end and require that it succeeds."""
        play = self.start_book(book, *options)
        assert play.finish() == 0, play.all
        return play

    def records(self, host: str = "gpu-1") -> list[dict[str, Any]]:
        """Return what the store tells of the work that goes on."""
        records = []
        for path in (self.root(host) / "work").glob("*.json"):
            with contextlib.suppress(OSError, ValueError):
                records.append(json.loads(path.read_text(encoding="utf-8")))
        return records

    def wait_for_work(self, done_bytes: int = 1, host: str = "gpu-1") -> int:
        """Wait until work has come that far; return its process."""
        wait_until(
            lambda: any((record.get("done_bytes") or 0) >= done_bytes for record in self.records(host)), "work goes on"
        )
        pid: int = self.records(host)[0]["process"][1]
        return pid

    def assert_nothing_left(self) -> None:
        """Require that no process, no record and no temporary file is there any more."""
        wait_until(lambda: not list(self.temporary.glob("ansible*")), "temporary files are removed", 10)
        for host in self.hosts:
            assert list((self.root(host) / "work").iterdir()) == []
        assert [path for path in (self.home / ".ansible").rglob("ansible-tmp-*") if path.is_dir()] == []
        assert not list((self.directory / "async").glob("*"))


def screen(text: str, columns: int, rows: int = 200) -> list[str]:
    """Return what a terminal shows after this output: the part of its language that we and Ansible use."""
    lines = [[" "] * columns for _row in range(rows)]
    row = column = 0
    for match in re.finditer(r"\x1b\[(\d*)([A-Za-z])|\x1b\[0?;?[\d;]*m|([\r\n])|([^\x1b\r\n])", text):
        count, command, control, character = match.groups()
        if command == "A":
            row = max(0, row - int(count or 1))
        elif command == "J":
            lines[row][column:] = [" "] * (columns - column)
            for below in lines[row + 1 :]:
                below[:] = [" "] * columns
        elif control == "\r":
            column = 0
        elif control == "\n":
            row += 1
        elif character:
            if column == columns:
                row, column = row + 1, 0
            lines[row][column] = character
            column += 1
    return ["".join(line).rstrip() for line in lines]


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def seconds_until(condition: Any, timeout: float = 30) -> float:
    """Wait for something and return how long that took."""
    begun = time.monotonic()
    wait_until(condition, "it happens", timeout)
    return time.monotonic() - begun


@contextlib.contextmanager
def sshd(directory: Path, temporary: Path) -> Iterator[Sshd]:
    """Run an sshd meanwhile."""
    server = Sshd(directory, temporary)
    try:
        yield server
    finally:
        server.stop()

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""python_env with the real uv, against a local index: what is served is whole and tested, or what it was before."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.index import Index, Wheel
from tests.index.wheels import SourceDistribution, torch
from tests.integration.disks import small_disk
from tests.integration.harness import ModuleProcess, Result, assert_sentence, environment, snapshot, wait_until

PASSWORD = "QxZ7passwordNobodyMayEverSee93Kd"
USER = f"reader:{PASSWORD}"

APPLE = Wheel("apple", "1.0")
APPLE_2 = Wheel("apple", "2.0")
PEAR = Wheel("pear", "1.0", requires=("apple",))
LARGE = Wheel("large", "1.0", {"large.py": "".join(f"value_{number} = {number**3}\n" for number in range(200_000))})


class PythonHost:
    """A host with an index that it can reach."""

    def __init__(self, index: Index, directory: Path) -> None:
        self.index = index
        self.home = directory / "home"
        self.home.mkdir()
        self.link = directory / "opt" / "env"
        self.directory = directory / "opt" / "env.d"
        self.variables: dict[str, str] = {"UV_HTTP_RETRIES": "0", "UV_HTTP_TIMEOUT": "5"}

    def start(self, *wheels: Wheel, **arguments: Any) -> ModuleProcess:
        """Start the module for these packages; an argument that is None is left out."""
        usual: dict[str, Any] = {
            "path": str(self.link),
            "requirements": "".join(wheel.pin for wheel in wheels) or None,
            "python": sys.executable,
            "index_url": self.index.url,
        }
        given = {name: value for name, value in {**usual, **arguments}.items() if value is not None}
        return ModuleProcess("python_env", given, environment(self.home, **self.variables))

    def run(self, *wheels: Wheel, **arguments: Any) -> Result:
        return self.start(*wheels, **arguments).finish()

    def ok(self, *wheels: Wheel, **arguments: Any) -> Result:
        result = self.run(*wheels, **arguments)
        assert not result.failed, result.values
        assert "Traceback" not in result.output
        return result

    def assert_serves(self, *wheels: Wheel) -> None:
        """Require that exactly these packages are served, by the word of the environment's own Python."""
        script = "from importlib.metadata import distributions as d; print(sorted((i.name, i.version) for i in d()))"
        command = [self.link / "bin" / "python", "-c", script]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert told.strip() == repr(sorted((wheel.name, wheel.version) for wheel in wheels))
        for wheel in wheels:
            if not wheel.files:  # it has a program
                program = [self.link / "bin" / wheel.name]
                assert (
                    subprocess.run(program, capture_output=True, text=True, check=True).stdout.strip() == wheel.version
                )

    def environments(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir() if not path.name.startswith((".", "history")))

    def leftovers(self) -> list[str]:
        return sorted(path.name for path in self.directory.glob(".[no]*-*"))


@pytest.fixture
def index() -> Iterator[Index]:
    with Index(APPLE, APPLE_2, PEAR, LARGE) as index:
        yield index


@pytest.fixture
def host(index: Index, tmp_path: Path) -> PythonHost:
    return PythonHost(index, tmp_path)


@pytest.fixture
def serving(host: PythonHost) -> PythonHost:
    """A host that serves one package."""
    host.ok(APPLE)
    host.index.requests.clear()
    return host


def test_check_real_check_real(host: PythonHost, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    check = host.ok(APPLE, PEAR, imports=["apple", "pear"], _ansible_check_mode=True, _ansible_diff=True)
    assert snapshot(tmp_path) == before
    assert host.index.requests == []
    real = host.ok(APPLE, PEAR, imports=["apple", "pear"], _ansible_diff=True)
    for result in (check, real):
        assert result.changed
        assert result.msg == f"build and serve environment {check.digest}"
        assert result.previous_environment is None
        assert (result.diff["before"], result.diff["after"]) == ("", "apple==1.0\npear==1.0\n")
    assert (check.environment, check.packages) == (None, None)
    assert (real.environment, real.packages) == (check.digest, {"apple": "1.0", "pear": "1.0"})
    assert (real.torch_cuda, real.directory) == (None, str(host.directory / check.digest))
    assert real.python_version == ".".join(map(str, sys.version_info[:3]))
    host.assert_serves(APPLE, PEAR)

    after = snapshot(tmp_path)
    host.index.requests.clear()
    # Nothing is run: there is no uv.
    for mode in ({"_ansible_check_mode": True}, {}):
        again = host.ok(APPLE, PEAR, uv="/nonexistent", **mode)
        assert not again.changed
        assert again.environment == again.previous_environment == check.digest
        assert again.packages == real.packages
    assert snapshot(tmp_path) == after
    assert host.index.requests == []


def test_switch_and_the_way_back(host: PythonHost) -> None:
    first, second = host.ok(APPLE), host.ok(APPLE_2)
    assert second.previous_environment == first.environment
    host.assert_serves(APPLE_2)
    check = host.ok(environment="previous", _ansible_check_mode=True)
    host.assert_serves(APPLE_2)
    real = host.ok(environment="previous")
    for result in (check, real):
        assert (result.changed, result.environment, result.previous_environment) == (
            True,
            first.environment,
            second.environment,
        )
    host.assert_serves(APPLE)
    assert not host.ok(environment=first.environment, _ansible_check_mode=True).changed
    assert not host.ok(environment=first.environment).changed
    assert_sentence(
        host.run(environment="previous"), "nothing to go back to", f"environment {first.environment} is served"
    )

    # Forward again: it is there already.
    host.index.requests.clear()
    again = host.ok(APPLE_2)
    assert (again.changed, again.msg) == (True, f"serve environment {second.environment}")
    assert host.index.requests == []
    host.assert_serves(APPLE_2)
    third = host.ok(PEAR, APPLE)
    assert host.environments() == sorted([second.environment, third.environment])
    host.ok(environment="previous")
    host.assert_serves(APPLE_2)
    assert_sentence(host.run(environment=first.environment), "there are", second.environment)


def test_a_running_program_keeps_its_environment(serving: PythonHost) -> None:
    """What was started before the switch goes on importing from where it was started."""
    script = "import sys; sys.stdin.read(); import apple; print(apple.version)"
    # As its programs find it.
    python = serving.directory / serving.environments()[0] / "bin" / "python"
    command = [python, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        serving.ok(APPLE_2)
        output, _errors = process.communicate("go")
    assert output.strip() == "1.0"


def test_comments_and_order_do_not_count(serving: PythonHost) -> None:
    text = f"# made anew\n\napple==1.0 \\\n    --hash=sha256:{APPLE.sha256}  # via nothing\n"
    assert not serving.ok(requirements=text).changed


def test_changed_by_hand(serving: PythonHost) -> None:
    served = serving.environments()[0]
    packages = next((serving.directory / served).glob("lib/python3*/site-packages"))
    (packages / "extra-1.0.dist-info").mkdir()
    for mode in ({"_ansible_check_mode": True}, {}):
        result = serving.ok(APPLE, **mode)
        assert result.changed
        assert "its packages were changed by hand" in result.msg
    serving.assert_serves(APPLE)
    assert serving.environments() == [served, f"{served}-2"]
    assert not serving.ok(APPLE).changed


def test_python_that_is_gone(serving: PythonHost) -> None:
    """As after an upgrade of the distribution."""
    served = serving.environments()[0]
    python = serving.directory / served / "bin" / "python"
    python.unlink()
    python.symlink_to("/usr/bin/python3.99")
    result = serving.ok(APPLE)
    assert "its Python is not" in result.msg
    serving.assert_serves(APPLE)


# Failures: what is served stays.


BROKEN = Wheel("broken", "1.0", {"broken.py": "import nothing_of_that_name\n"})
CRASHING = Wheel("crashing", "1.0", {"crashing.py": "import os\nos.kill(os.getpid(), 11)\n"})
YANKED = Wheel("yanked", "1.0", yanked=True)
INCOMPLETE = Wheel("incomplete", "1.0", requires=("kiwi >= 3",))
SOURCE = SourceDistribution("source", "1.0")
ABSENT = Wheel("absent", "1.0")
WINDOWS = Wheel("windows", "1.0", tag="py3-none-win_amd64")


@pytest.mark.parametrize(
    ("wheel", "fault", "arguments", "fragments"),
    [
        (APPLE_2, "flipped", {}, ["apple==2.0 is a broken wheel"]),
        (APPLE_2, "truncated", {}, ["apple==2.0 is a broken wheel"]),
        (APPLE_2, "replaced", {}, ["apple==2.0 is not the file that was locked", "SHA-256"]),
        (APPLE_2, "missing", {}, ["apple==2.0 was refused by 127.0.0.1", "404"]),
        (APPLE_2, "error", {}, ["apple==2.0", "500"]),
        (APPLE_2, "reset", {}, ["apple==2.0 was not received as a whole", "reset"]),
        (APPLE_2, "silent", {}, ["apple==2.0 was not received as a whole", "nothing came"]),
        (YANKED, None, {}, ["yanked==1.0 was withdrawn", "lock again"]),
        (ABSENT, None, {}, ["absent was not found"]),
        (Wheel("apple", "7.0"), None, {}, ["apple==7.0 was not found"]),
        (WINDOWS, None, {}, ["windows==1.0 has no wheel for this host", "matching platform tag"]),
        (INCOMPLETE, None, {}, ["incomplete requires kiwi>=3", "lock again"]),
        (SOURCE, None, {}, ["source==1.0", "source_builds"]),
        (SOURCE, None, {"source_builds": True}, ["source==1.0 could not be built: RuntimeError: no compiler here"]),
        (BROKEN, None, {"imports": ["broken"]}, ["import broken", "nothing_of_that_name"]),
        (CRASHING, None, {"imports": ["apple", "crashing"]}, ["import crashing", "SIGSEGV"]),
        (APPLE_2, None, {"imports": ["apple.seed"]}, ["import apple.seed", "ModuleNotFoundError"]),
        (APPLE_2, None, {"python": "3.99"}, ["Python 3.99"]),
        (APPLE_2, None, {"python": "/nonexistent/python"}, ["/nonexistent/python"]),
        (APPLE_2, None, {"python": "/bin/true"}, ["/bin/true is no Python that works"]),
        (APPLE_2, None, {"uv": "no-such-uv"}, ["no-such-uv", "install uv"]),
        (APPLE_2, None, {"uv": "/bin/false"}, ["uv"]),
        (
            APPLE_2,
            None,
            {"index_url": "http://127.0.0.1:9/simple"},
            ["127.0.0.1:9 cannot be reached", "Connection refused"],
        ),
        (
            APPLE_2,
            None,
            {"index_url": "http://no-such-host.invalid/simple"},
            ["no-such-host.invalid cannot be reached"],
        ),
        (APPLE_2, "silent", {"timeout": 2.0}, ["timeout of 2 s"]),
    ],
    ids=str,
)
def test_failure(
    serving: PythonHost, wheel: Wheel, fault: Any, arguments: dict[str, Any], fragments: list[str]
) -> None:
    if wheel is not ABSENT and wheel.version != "7.0":
        serving.index.wheels.append(wheel)
    if fault:
        serving.index.faults[wheel.filename] = fault
    served = serving.environments()
    wheels = [wheel, APPLE] if wheel.name != "apple" else [wheel]
    result = serving.run(*wheels, **arguments)
    assert_sentence(result, *fragments, f"environment {served[0]} is served as before")
    assert serving.environments() == served
    assert serving.leftovers() == []
    serving.assert_serves(APPLE)
    assert not serving.ok(APPLE).changed
    serving.index.faults.clear()
    if wheel is APPLE_2:
        serving.ok(APPLE_2)
        serving.assert_serves(APPLE_2)


def test_failure_of_the_first(host: PythonHost) -> None:
    with host.index.fault(APPLE, "missing"):
        assert_sentence(host.run(APPLE), "apple==1.0", "nothing is served as before")
    assert not host.link.exists()
    host.ok(APPLE)


def test_torch_for_cuda_without_a_driver(host: PythonHost) -> None:
    """It computes on the processor."""
    wheel = torch("2.13.0", "13.0")
    host.index.wheels.append(wheel)
    assert host.ok(wheel, imports=["torch"]).torch_cuda == "13.0"


def test_python_version(host: PythonHost) -> None:
    version = ".".join(map(str, sys.version_info[:2]))
    host.variables["PATH"] = f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin:{Path(sys.executable).parent}"
    result = host.ok(APPLE, python=version)
    assert result.interpreter is not None
    assert result.python_version.startswith(f"{version}.")
    host.assert_serves(APPLE)


def test_offline(host: PythonHost, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    APPLE.write(wheels)
    offline = {"index_url": None, "find_links": [str(wheels)], "offline": True}
    host.ok(APPLE, **offline)
    host.assert_serves(APPLE)
    assert_sentence(host.run(PEAR, APPLE, **offline), "pear")
    assert host.index.requests == []


def test_extra_index(host: PythonHost) -> None:
    """Which index has the locked file does not matter."""
    with Index(Wheel("apple", "0.9"), PEAR) as other:
        host.ok(APPLE, PEAR, extra_index_urls=[other.url])
    host.assert_serves(APPLE, PEAR)


def test_password_is_shown_nowhere(host: PythonHost, tmp_path: Path) -> None:
    host.index.user = USER
    arguments = {"extra_index_urls": [host.index.url]}
    process = host.start(APPLE, LARGE, imports=["large"], **arguments)
    seen = set()
    while process.running:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.add(path.read_bytes())
            except OSError:
                continue
    result = process.finish()
    assert not result.failed, result.values
    assert any(b"uv" in command and b"sync" in command for command in seen)
    assert not any(PASSWORD.encode() in command for command in seen)
    outputs = [result.output, host.run(ABSENT, **arguments).output]
    host.index.wheels.append(YANKED)
    with host.index.fault(APPLE_2, "missing"):
        outputs.append(host.run(APPLE_2, **arguments).output)
    outputs.append(host.run(APPLE_2, index_url=f"ftp://{USER}@x/").output)
    assert not any(PASSWORD in output for output in outputs), outputs
    found = subprocess.run(["grep", "-rl", PASSWORD, str(tmp_path)], capture_output=True, text=True, check=False)
    assert found.stdout == ""
    host.index.user = "reader:wrong"
    assert_sentence(
        host.run(APPLE_2, index_url=f"http://{USER}@127.0.0.1:{host.index.port}/simple"), "was not found", "password"
    )


# Interruptions.


def test_killed_in_the_middle(serving: PythonHost) -> None:
    served = serving.environments()
    for moment in (0.05, 0.2, 0.4, 0.6, 0.8, 1.0):
        process = serving.start(APPLE, LARGE, imports=["large"])
        time.sleep(moment)
        process.kill()
        if serving.environments() != served:
            break
        serving.assert_serves(APPLE)
    serving.ok(APPLE, LARGE)
    serving.assert_serves(APPLE, LARGE)
    assert serving.leftovers() == []


def test_what_a_killed_one_left_running_is_waited_for(serving: PythonHost) -> None:
    with serving.index.fault(LARGE, "slow"):
        process = serving.start(APPLE, LARGE)
        wait_until(lambda: LARGE.filename in serving.index.files, "the download has begun")
        process.kill()
        assert_sentence(serving.run(APPLE, LARGE, lock_timeout=0.1), "in use by python_env")
        serving.ok(APPLE, LARGE)
    serving.assert_serves(APPLE, LARGE)
    assert serving.leftovers() == []


def test_imports_that_a_killed_one_left_running_are_waited_for(serving: PythonHost, tmp_path: Path) -> None:
    """Importing writes bytecode, and would bring back what was removed meanwhile."""
    begun = tmp_path / "begun"
    slow = Wheel("slow", "1.0", {"slow.py": f"import time\nopen({str(begun)!r}, 'w').close()\ntime.sleep(2)\n"})
    serving.index.wheels.append(slow)
    process = serving.start(slow, imports=["slow"])
    wait_until(begun.exists, "the import has begun")
    process.kill()
    assert_sentence(serving.run(APPLE, LARGE, lock_timeout=0.1), "in use by python_env")
    serving.ok(APPLE, LARGE)
    assert serving.leftovers() == []


def test_stopped_by_a_signal(serving: PythonHost) -> None:
    with serving.index.fault(LARGE, "silent"):
        process = serving.start(APPLE, LARGE)
        wait_until(lambda: LARGE.filename in serving.index.files, "the download has begun")
        process.popen.terminate()
        start = time.monotonic()
        assert_sentence(process.finish(), "stopped by a signal", "is served as before")
        assert time.monotonic() - start < 3
    assert serving.leftovers() == []
    serving.assert_serves(APPLE)
    serving.ok(APPLE, LARGE, lock_timeout=0.0)


def test_two_at_once(host: PythonHost) -> None:
    with host.index.fault(LARGE, "slow"):
        first, second = host.start(LARGE), host.start(LARGE)
        results = [first.finish(), second.finish()]
    assert sorted(result.changed for result in results) == [False, True], [result.values for result in results]
    assert host.index.files.count(LARGE.filename) == 1
    host.assert_serves(LARGE)


def test_disk_full(host: PythonHost, disk: Path) -> None:
    host.ok(APPLE)
    served = host.environments()
    other = disk / "somebody-elses.file"
    status = os.statvfs(disk)
    with other.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, status.f_bavail * status.f_frsize - 1024 * 1024)
    assert_sentence(host.run(APPLE, LARGE), "the disk is full", "is served as before")
    assert host.environments() == served
    assert host.leftovers() == []
    host.assert_serves(APPLE)
    assert not host.ok(APPLE).changed
    other.unlink()
    host.ok(APPLE, LARGE)
    host.assert_serves(APPLE, LARGE)


@pytest.fixture
def disk(host: PythonHost) -> Iterator[Path]:
    """A filesystem of 48 MiB of its own for the environments."""
    directory = host.link.parent
    directory.mkdir()
    with small_disk(directory, "48m"):
        yield directory


# Removing.


def test_absent_frees_the_disk(host: PythonHost, disk: Path) -> None:
    def used() -> int:
        listing = subprocess.run(["df", "--output=used", str(disk)], capture_output=True, text=True, check=True)
        return int(listing.stdout.split()[1]) * 1024

    before = used()
    host.ok(APPLE, LARGE)
    host.ok(APPLE_2)
    host.assert_serves(APPLE_2)  # which may write bytecode
    there = used()
    assert there > before + 1024 * 1024
    check = host.ok(state="absent", _ansible_check_mode=True)
    assert used() == there
    real = host.ok(state="absent")
    assert check.changed
    assert real.changed
    assert list(disk.iterdir()) == []
    assert used() == before
    assert check.freed_bytes == real.freed_bytes == there - before
    for mode in ({"_ansible_check_mode": True}, {}):
        again = host.ok(state="absent", **mode)
        assert (again.changed, again.freed_bytes) == (False, None)


def test_clean_cache(host: PythonHost) -> None:
    host.ok(APPLE)
    assert (host.directory / ".cache").is_dir()
    assert host.ok(APPLE_2).freed_bytes is None
    # Also where there is nothing to build; what an environment shares with it is not free by that.
    check = host.ok(APPLE_2, clean_cache=True, uv="/nonexistent", _ansible_check_mode=True)
    assert (host.directory / ".cache").is_dir()
    real = host.ok(APPLE_2, clean_cache=True, uv="/nonexistent")
    for result in (check, real):
        assert result.changed
        assert result.msg.endswith("is served already; the cache is removed")
        assert 0 < result.freed_bytes < 1024 * 1024
    assert not (host.directory / ".cache").exists()
    host.assert_serves(APPLE_2)
    for mode in ({"_ansible_check_mode": True}, {}):
        assert not host.ok(APPLE_2, clean_cache=True, **mode).changed
    host.ok(APPLE, PEAR, clean_cache=True)
    assert not (host.directory / ".cache").exists()
    host.assert_serves(APPLE, PEAR)


@pytest.mark.parametrize("kind", ["directory", "file", "link"])
def test_what_is_not_ours_is_left_alone(host: PythonHost, kind: str) -> None:
    host.link.parent.mkdir()
    if kind == "directory":
        (host.link / "precious").mkdir(parents=True)
    elif kind == "file":
        host.link.write_text("precious", encoding="utf-8")
    else:
        host.link.symlink_to(host.home)
    before = snapshot(host.link.parent)
    for arguments in ({}, {"state": "absent", "requirements": None}, {"environment": "previous", "requirements": None}):
        for mode in ({"_ansible_check_mode": True}, {}):
            given = {"requirements": APPLE.pin, **arguments}
            assert_sentence(host.run(**given, **mode), str(host.link), "not a link that this module made")
    assert snapshot(host.link.parent) == before


def test_directory_that_is_not_ours_is_left_alone(host: PythonHost) -> None:
    (host.directory / "precious").mkdir(parents=True)
    before = snapshot(host.directory)
    for arguments in ({"requirements": APPLE.pin}, {"state": "absent"}):
        assert_sentence(host.run(**arguments), str(host.directory), "not made by this module")
    assert snapshot(host.directory) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("what", ["above", "environments", "uv"])
def test_nothing_runs_that_another_account_could_replace(serving: PythonHost, what: str) -> None:
    uv = serving.home / "uv"
    shutil.copy(Path(sys.executable).parent / "uv", uv)
    culprit = {"above": serving.link.parent, "environments": serving.directory, "uv": uv}[what]
    os.chown(culprit, 65534, -1)
    for mode in ({"_ansible_check_mode": True}, {}):
        assert_sentence(serving.run(APPLE_2, uv=str(uv), **mode), f"{culprit} belongs to nobody", "is served as before")
    assert serving.index.requests == []
    serving.assert_serves(APPLE)
    # What is served is served; nothing is run for that.
    assert not serving.ok(APPLE, uv=str(uv)).changed
    os.chown(culprit, 0, -1)
    first = serving.environments()[0]
    serving.ok(APPLE_2, uv=str(uv))
    os.chown(serving.directory / first, 65534, -1)
    assert_sentence(serving.run(environment="previous"), f"{first} belongs to nobody", "is served as before")
    serving.assert_serves(APPLE_2)


def test_umask_of_the_caller_does_not_count(host: PythonHost) -> None:
    former = os.umask(0o077)
    try:
        host.ok(APPLE)
    finally:
        os.umask(former)
    hidden = [
        path
        for path in (host.link.parent / "env.d").rglob("*")
        if not path.is_symlink() and ".cache" not in path.parts and not path.stat().st_mode & 0o004
    ]
    assert hidden == []

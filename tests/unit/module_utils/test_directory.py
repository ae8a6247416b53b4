# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Directories: whatever is planted in them, nobody is led out of them, and nobody waits for ever."""

from __future__ import annotations

import os
import resource
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._directory import Directory
from ansible_collections.gpufleet.models.plugins.module_utils._errors import StoreError
from tests.unit.stores import listing

# An account that is not the one that runs the tests, where that one may give files away.
OTHER = (12345, 23456) if os.geteuid() == 0 else (os.geteuid(), os.getegid())


pytestmark = pytest.mark.usefixtures("alarm")  # whoever opens a FIFO may wait for its other side for ever


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory that nobody may touch."""
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    (outside / "file").write_bytes(b"precious")
    (outside / "sub" / "file").write_bytes(b"precious")
    before = listing(outside)
    yield outside
    assert listing(outside) == before


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """Where the directory is."""
    inside = tmp_path / "inside"
    inside.mkdir()
    return inside


@pytest.fixture
def directory(inside: Path) -> Iterator[Directory]:
    """An empty directory."""
    with Directory.open_root(str(inside)) as directory:
        yield directory


def _socket(path: Path, _outside: Path) -> None:
    with socket.socket(socket.AF_UNIX) as planted:
        former = Path.cwd()
        os.chdir(path.parent)  # a socket's path must be short
        planted.bind(path.name)
        os.chdir(former)


def _full_directory(path: Path, outside: Path) -> None:
    (path / "sub").mkdir(parents=True)
    (path / "sub" / "link").symlink_to(outside)
    (path / "file").write_bytes(b"x")


PLANTED: dict[str, Callable[[Path, Path], Any]] = {
    "file": lambda path, _outside: path.write_bytes(b"former"),
    "directory": _full_directory,
    "link to a file": lambda path, outside: path.symlink_to(outside / "file"),
    "link to a directory": lambda path, outside: path.symlink_to(outside / "sub"),
    "relative link": lambda path, _outside: path.symlink_to("../outside/file"),
    "dangling link": lambda path, outside: path.symlink_to(outside / "absent"),
    "link to itself": lambda path, _outside: path.symlink_to(path.name),
    "FIFO": lambda path, _outside: os.mkfifo(path),
    "socket": _socket,
}


@pytest.fixture(params=PLANTED)
def planted(request: pytest.FixtureRequest, inside: Path, outside: Path) -> str:
    """Something that lies in the directory under the name ``name``; its kind."""
    PLANTED[request.param](inside / "name", outside)
    return str(request.param)


FLAGS = [
    os.O_RDONLY,
    os.O_WRONLY,
    os.O_RDWR,
    os.O_RDWR | os.O_CREAT,
    os.O_RDWR | os.O_CREAT | os.O_APPEND,
    os.O_WRONLY | os.O_CREAT,
]


def test_only_a_regular_file_is_opened(directory: Directory, inside: Path, planted: str) -> None:
    before = listing(inside)
    for flags in FLAGS:
        if planted == "file":
            os.close(directory.open("name", flags))
        else:
            with pytest.raises(StoreError, match=r"/inside/name is not a regular file; remove it$"):
                directory.open("name", flags)
    assert listing(inside) == before


def test_file_with_a_second_name_is_written_to_only_where_that_is_meant(directory: Directory, inside: Path) -> None:
    """Whoever may write to the store could give any file a name there."""
    (inside.parent / "victim").write_bytes(b"precious")
    os.link(inside.parent / "victim", inside / "name")
    for flags in FLAGS:
        if flags == os.O_RDONLY:
            os.close(directory.open("name", flags))
        else:
            with pytest.raises(StoreError, match=r"/name has a second name somewhere, expected none; remove it$"):
                directory.open("name", flags)
        os.close(directory.open("name", flags, shared=True))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize(
    ("directory_owner", "file_owner", "refused"),
    [
        (0, 0, False),
        # The store got another owner since.
        (0, 65534, False),
        (65534, 65534, False),
        # That account could have linked a file of another one here.
        (65534, 0, True),
        (65534, 65533, True),
    ],
)
def test_file_of_another_account_is_written_to_only_where_nobody_can_have_planted_it(
    directory: Directory, inside: Path, directory_owner: int, file_owner: int, refused: bool
) -> None:
    (inside / "name").write_bytes(b"precious")
    os.chown(inside / "name", file_owner, -1)
    os.chown(inside, directory_owner, -1)
    if refused:
        with pytest.raises(StoreError, match=r"/name belongs to another user than its directory"):
            directory.open("name", os.O_RDWR, shared=True)
    else:
        os.close(directory.open("name", os.O_RDWR, shared=True))


@pytest.mark.usefixtures("planted")
def test_nothing_is_taken_for_a_new_file(directory: Directory, inside: Path) -> None:
    before = listing(inside)
    with pytest.raises(FileExistsError):
        directory.open("name", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    assert listing(inside) == before


@pytest.mark.parametrize("create", [False, True])
def test_only_a_directory_is_entered(directory: Directory, inside: Path, planted: str, create: bool) -> None:
    before = listing(inside)
    if planted == "directory":
        with directory.subdirectory("name", create) as found:
            assert found.names() == ["file", "sub"]
    else:
        with pytest.raises(StoreError, match=r"/inside/name is a link or a file, expected a directory; remove it$"):
            directory.subdirectory("name", create)
    assert listing(inside) == before


def test_read(directory: Directory, planted: str) -> None:
    if planted == "file":
        assert directory.read("name", 6) == b"former"
        with pytest.raises(StoreError, match="larger than 5 bytes"):
            directory.read("name", 5)
    else:
        with pytest.raises(StoreError, match="not a regular file"):
            directory.read("name")


def test_write_replaces_and_never_follows(directory: Directory, inside: Path, planted: str) -> None:
    if planted == "directory":
        with pytest.raises(OSError, match=r"[Dd]irectory"):
            directory.write("name", b"new")
        return
    directory.write("name", b"new", 0o640)
    status = (inside / "name").lstat()
    assert (stat.S_ISREG(status.st_mode), stat.S_IMODE(status.st_mode)) == (True, 0o640)
    assert (inside / "name").read_bytes() == b"new"
    assert directory.names() == ["name"]


@pytest.mark.parametrize("kind", PLANTED)
def test_write_does_not_stumble_over_what_a_crash_left(
    directory: Directory, inside: Path, outside: Path, kind: str
) -> None:
    PLANTED[kind](inside / ".name.new", outside)
    directory.write("name", b"new")
    assert directory.names() == ["name"]
    assert directory.read("name") == b"new"


@pytest.mark.usefixtures("planted")
def test_remove_takes_an_entry_with_what_is_below(directory: Directory, inside: Path) -> None:
    (inside / "other").write_bytes(b"stays")
    directory.remove("name")
    directory.remove("name")
    assert directory.names() == ["other"]


def test_link_and_rename_take_the_entry_itself(directory: Directory, inside: Path, outside: Path, planted: str) -> None:
    (inside / "target").mkdir()
    inode = (inside / "name").lstat().st_ino
    with directory.subdirectory("target") as target:
        if planted != "directory":
            directory.link("name", target, "linked")
            assert (inside / "target" / "linked").lstat().st_ino == inode
        directory.rename("name", "moved", target)
        assert (inside / "target" / "moved").lstat().st_ino == inode
    assert directory.stat("name") is None
    assert (outside / "file").stat().st_nlink == 1


def test_walk_tells_everything_and_follows_nothing(directory: Directory, inside: Path, outside: Path) -> None:
    for kind, plant in PLANTED.items():
        plant(inside / kind, outside)
    (inside / os.fsdecode(b"\xff\n")).write_bytes(b"")
    found = {path: status.st_ino for path, status in directory.walk()}
    expected = {str(path.relative_to(inside)): path.lstat().st_ino for path in inside.rglob("*")}
    assert {*expected} == {*PLANTED, "directory/file", "directory/sub", "directory/sub/link", "\udcff\n"}
    assert found == expected
    order = list(found)
    assert order.index("directory") < order.index("directory/sub") < order.index("directory/sub/link")


def test_what_is_absent(directory: Directory) -> None:
    assert directory.stat("absent") is None
    assert directory.names() == []
    directory.remove("absent")
    for call in (directory.subdirectory, directory.read, lambda name: directory.open(name, os.O_RDWR)):
        with pytest.raises(FileNotFoundError):
            call("absent")


def test_modes_do_not_depend_on_the_umask(directory: Directory, inside: Path) -> None:
    former = os.umask(0o077)
    try:
        directory.subdirectory("sub", create=True).close()
        os.close(directory.open("file", os.O_WRONLY | os.O_CREAT))
        directory.write("readable", b"", 0o444)
    finally:
        os.umask(former)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in inside.iterdir()}
    assert modes == {"sub": 0o755, "file": 0o644, "readable": 0o444}


def test_what_is_made_gets_its_owner_and_what_was_there_keeps_it(inside: Path) -> None:
    for name in ("old", "old directory"):
        (inside / name).mkdir() if "directory" in name else (inside / name).write_bytes(b"")
    with Directory.open_root(str(inside), OTHER) as directory:
        os.close(directory.open("old", os.O_RDWR | os.O_CREAT))
        os.close(directory.open("new", os.O_RDWR | os.O_CREAT))
        directory.write("written", b"")
        directory.subdirectory("old directory", create=True).close()
        with directory.subdirectory("new directory", create=True) as made:
            made.write("inner", b"")
    owners = {str(path.relative_to(inside)): (path.stat().st_uid, path.stat().st_gid) for path in inside.rglob("*")}
    mine = (os.geteuid(), inside.stat().st_gid)
    assert owners == {
        "old": mine,
        "old directory": mine,
        **dict.fromkeys(["new", "written", "new directory", "new directory/inner"], OTHER),
    }


def test_write_is_atomic_for_readers(directory: Directory, inside: Path) -> None:
    contents = [letter * 300_000 for letter in (b"a", b"b")]
    directory.write("name", contents[0])
    done = threading.Event()

    def write() -> None:
        for _round in range(100):
            for content in contents:
                directory.write("name", content, durable=False)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not done.is_set():
        assert (inside / "name").read_bytes() in contents
    thread.join()


def test_write_that_fails_leaves_the_former_content(directory: Directory, inside: Path) -> None:
    directory.write("name", b"former")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            directory.write("name", b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (inside / "name").read_bytes() == b"former"
    directory.write("name", b"later")
    assert directory.names() == ["name"]


@pytest.mark.parametrize("kind", ["file", "dangling link", "FIFO"])
def test_root_must_be_a_directory(inside: Path, outside: Path, kind: str) -> None:
    PLANTED[kind](inside / "name", outside)
    with pytest.raises(OSError, match=r"Not a directory|No such file"):
        Directory.open_root(str(inside / "name"))


def test_root_may_be_reached_through_a_link(inside: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(inside)
    with Directory.open_root(str(tmp_path / "link")) as directory:
        directory.write("name", b"")
    assert (inside / "name").exists()


def test_no_descriptor_is_left_open(directory: Directory, inside: Path, outside: Path) -> None:
    for kind, plant in PLANTED.items():
        plant(inside / kind, outside)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the order of names does not matter
    for kind in PLANTED:
        for call in (directory.read, directory.subdirectory, lambda name: directory.write(name, b"")):
            try:
                result = call(kind)
            except (StoreError, OSError):
                continue
            if isinstance(result, Directory):
                result.close()
    list(directory.walk())
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208

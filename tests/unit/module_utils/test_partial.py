# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is kept of an interrupted transfer: no crash makes its journal say more than was written to it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.gpufleet.models.plugins.module_utils._blocks import BLOCK_SIZE
from ansible_collections.gpufleet.models.plugins.module_utils._directory import Directory
from ansible_collections.gpufleet.models.plugins.module_utils._errors import StoreError
from ansible_collections.gpufleet.models.plugins.module_utils._partial import (
    Partial,
    journal_name,
    read_journal,
    remove_orphans,
)

SHA256 = hashlib.sha256(b"model").hexdigest()
SIZE = 40 * BLOCK_SIZE - 1
DIGESTS = {index: hashlib.sha256(bytes([index])).hexdigest() for index in range(40)}


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    """The directory of partial files."""
    (tmp_path / "partial").mkdir()
    with Directory.open_root(str(tmp_path / "partial")) as directory:
        yield directory


def journal(directory: Directory) -> Path:
    """Return where the journal lies."""
    return Path(directory.path, journal_name(SHA256))


def record(directory: Directory, *blocks: int) -> dict[int, str]:
    """Go on with the partial file, note these blocks, and return what the journal says from now on."""
    partial = Partial(directory, SHA256, SIZE)
    try:
        assert partial.journalled == read_journal(directory, SHA256, SIZE)
        for block in blocks:
            partial.record(block, DIGESTS[block])
    finally:
        partial.close()
    return read_journal(directory, SHA256, SIZE)


def wanted(*blocks: int) -> dict[int, str]:
    """Return what the journal must say after these blocks."""
    return {block: DIGESTS[block] for block in blocks}


def test_blocks_are_remembered(directory: Directory) -> None:
    assert read_journal(directory, SHA256, SIZE) == {}
    assert record(directory) == {}
    assert record(directory, 0, 39, 7) == wanted(0, 39, 7)
    assert record(directory, 8) == wanted(0, 39, 7, 8)
    status = Path(directory.path, SHA256).stat()
    assert (status.st_size, stat.S_IMODE(status.st_mode)) == (SIZE, 0o600)
    assert stat.S_IMODE(journal(directory).stat().st_mode) == 0o600


def test_last_line_counts(directory: Directory) -> None:
    partial = Partial(directory, SHA256, SIZE)
    partial.record(3, DIGESTS[4])
    partial.record(3, DIGESTS[3])
    assert read_journal(directory, SHA256, SIZE) == wanted(3)
    partial.close()


def test_forgotten_blocks_are_gone(directory: Directory) -> None:
    record(directory, 1, 2)
    partial = Partial(directory, SHA256, SIZE)
    partial.forget()
    assert read_journal(directory, SHA256, SIZE) == {}
    partial.record(5, DIGESTS[5])
    assert read_journal(directory, SHA256, SIZE) == wanted(5)
    partial.close()


def torn_journals(directory: Directory) -> Iterator[list[int]]:
    """Leave every start of a journal behind, as a power failure may, and yield the blocks in its whole lines."""
    record(directory, 0, 17, 3)
    whole = journal(directory).read_bytes()
    for length in range(len(whole) + 1):
        journal(directory).write_bytes(whole[:length])
        lines = whole[:length].decode().split("\n")[1:-1]
        yield [int(line.split()[0]) for line in lines]


def test_torn_at_every_byte_it_says_what_its_whole_lines_say(directory: Directory) -> None:
    for blocks in torn_journals(directory):
        assert read_journal(directory, SHA256, SIZE) == wanted(*blocks)


def test_torn_at_every_byte_the_next_run_goes_on(directory: Directory) -> None:
    for blocks in torn_journals(directory):
        assert record(directory, 21, 22) == wanted(*blocks, 21, 22)


FOREIGN = [
    b"",
    b"3",
    b"3 ",
    b" " + DIGESTS[3].encode(),
    b"3 " + DIGESTS[3][:63].encode(),
    b"3 " + DIGESTS[3].encode() + b"0",
    b"3  " + DIGESTS[3].encode(),
    b"-3 " + DIGESTS[3].encode(),
    b"+3 " + DIGESTS[3].encode(),
    b"3.0 " + DIGESTS[3].encode(),
    b"0x3 " + DIGESTS[3].encode(),
    b"40 " + DIGESTS[3].encode(),
    b"9" * 30 + b" " + DIGESTS[3].encode(),
    b"9" * 5000 + b" " + DIGESTS[3].encode(),
    "٣ ".encode() + DIGESTS[3].encode(),
    b"\xff\x00\xfe",
    b"gpufleet-journal 1 5",
    b"x" * 100_000,
]


def test_foreign_lines_do_not_count(directory: Directory) -> None:
    record(directory, 1)
    with journal(directory).open("ab") as file:
        for line in FOREIGN:
            file.write(line + b"\n")
    assert record(directory, 2) == wanted(1, 2)


@given(st.binary())
def test_any_journal_can_be_read(directory: Directory, content: bytes) -> None:
    for start in (b"", f"gpufleet-journal 1 {SIZE}\n".encode()):
        journal(directory).write_bytes(start + content)
        for index, digest in read_journal(directory, SHA256, SIZE).items():
            assert 0 <= index < 40
            assert len(digest) == 64


@pytest.mark.parametrize("header", [b"gpufleet-journal 1 5", b"something \xff"], ids=["size", "kind"])
def test_journal_of_another_size_or_kind_is_not_believed(directory: Directory, header: bytes) -> None:
    """And what is received from now on is remembered all the same."""
    journal(directory).write_bytes(header + b"\n" + f"3 {DIGESTS[3]}\n".encode())
    assert read_journal(directory, SHA256, SIZE) == {}
    assert record(directory, 4) == wanted(4)


def test_bytes_are_written_at_their_place(directory: Directory) -> None:
    partial = Partial(directory, SHA256, 10)
    partial.write(4, memoryview(b"abc"))
    partial.write(9, memoryview(b"z"))
    partial.record(0, DIGESTS[0])
    partial.close()
    assert Path(directory.path, SHA256).read_bytes() == b"\0\0\0\0abc\0\0z"
    partial = Partial(directory, SHA256, 10)
    partial.write(0, memoryview(b"1"))
    partial.close()
    assert Path(directory.path, SHA256).read_bytes() == b"1\0\0\0abc\0\0z"


def test_space_is_reserved_until_nothing_came(directory: Directory) -> None:
    partial = Partial(directory, SHA256, 3 << 20)
    partial.reserve()
    assert Path(directory.path, SHA256).stat().st_blocks * 512 >= 3 << 20
    partial.close()
    assert directory.names() == []


def test_what_a_kill_left_is_removed(directory: Directory) -> None:
    partial = Partial(directory, SHA256, SIZE)
    partial.record(3, DIGESTS[3])
    partial.close()
    other = hashlib.sha256(b"other").hexdigest()
    for name in (journal_name(other), f".{journal_name(other)}.new"):
        Path(directory.path, name).touch()
    remove_orphans(directory)
    assert directory.names() == [SHA256, journal_name(SHA256)]


def test_killed_when_it_was_about_to_become_a_blob(directory: Directory) -> None:
    """Root may write to a read-only file; an ordinary account opens it again."""
    partial = Partial(directory, SHA256, SIZE)
    partial.record(3, DIGESTS[3])
    os.fchmod(partial.descriptor, 0o444)
    partial.close()
    for name in (".", *directory.names()):
        os.chown(name, 65534, 65534, dir_fd=directory.descriptor)
    child = os.fork()
    if not child:
        status = 1
        with contextlib.suppress(BaseException):
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            partial = Partial(directory, SHA256, SIZE)
            partial.write(0, memoryview(b"1"))
            status = 0 if partial.journalled == {3: DIGESTS[3]} else 2
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_removed_as_a_whole(directory: Directory) -> None:
    partial = Partial(directory, SHA256, SIZE)
    partial.remove()
    partial.close()
    assert directory.names() == []


@pytest.mark.parametrize("plant", [os.symlink, os.link], ids=["symbolic", "hard"])
@pytest.mark.parametrize("name", [SHA256, journal_name(SHA256)], ids=["file", "journal"])
def test_file_of_someone_else_is_never_written_to(
    directory: Directory, tmp_path: Path, name: str, plant: Callable[[Path, Path], None]
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    plant(victim, Path(directory.path, name))
    with contextlib.suppress(StoreError):
        record(directory, 1, 2)
    with contextlib.suppress(StoreError):
        partial = Partial(directory, SHA256, SIZE)
        partial.forget()
        partial.close()
    assert victim.read_bytes() == b"precious"

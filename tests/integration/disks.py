# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filesystems that are small, or cannot be written to."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"this test mounts a filesystem, which needs root: {done.stderr.strip()}")


@contextlib.contextmanager
def mounted(directory: Path, *arguments: str) -> Iterator[Path]:
    """Mount something on a directory."""
    mount(*arguments, str(directory))
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def small_disk(directory: Path, size: str) -> contextlib.AbstractContextManager[Path]:
    """Give a directory a filesystem of its own, of such a size: ``64m`` are 64 MiB."""
    return mounted(directory, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")


@contextlib.contextmanager
def read_only(directory: Path) -> Iterator[Path]:
    """Let a directory be on a filesystem that became read-only."""
    with mounted(directory, "--bind", str(directory)):
        make_writable(directory, False)
        yield directory


def make_writable(directory: Path, writable: bool) -> None:
    """Let what is mounted on a directory be writable, or not any more."""
    mount("-o", f"remount,{'rw' if writable else 'ro'},bind", str(directory))

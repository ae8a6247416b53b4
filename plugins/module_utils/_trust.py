# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether anybody else could replace what is about to run with our rights."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Sequence
from typing import Callable

from ._errors import InvalidInput

_MOST_LINKS = 40


def require_trusted(path: str) -> None:
    """Require that only root and this account can change a file or directory, and each directory on the way to it.

    Links are followed, and count like what they point to. Where the path ends early, only that far is looked at. A
    group may write if it is root's or this account's own, everybody may in directories with the sticky bit, such as
    /tmp: there nobody can replace what belongs to others.

    :raises InvalidInput: When another account could; the message names the first such place.
    """
    place, ahead, links = "/", os.path.join(os.getcwd(), path).split("/")[::-1], 0
    _require_own(place)
    while ahead:
        name = ahead.pop()
        if name == "..":
            place = os.path.dirname(place)
        if name in ("", ".", ".."):
            continue
        entry = os.path.join(place, name)
        try:
            is_link = _require_own(entry)
        except FileNotFoundError:
            return
        if not is_link:
            place = entry
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        target = os.readlink(entry)
        place = "/" if target.startswith("/") else place
        ahead += target.split("/")[::-1]


def _require_own(entry: str) -> bool:
    """Require this of one entry; return whether it is a link."""
    status = os.lstat(entry)
    if status.st_uid not in (0, os.geteuid()):
        owner = _name_of(pwd.getpwuid, status.st_uid)
        raise InvalidInput(
            f"{entry} belongs to {owner}, who could replace what runs with this account's rights; choose another path, "
            "or give it to root"
        )
    if stat.S_ISLNK(status.st_mode):
        return True
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    by_group = status.st_mode & stat.S_IWGRP and status.st_gid not in (0, os.getegid())
    if not sticky and (status.st_mode & stat.S_IWOTH or by_group):
        who = "everybody" if status.st_mode & stat.S_IWOTH else f"the group {_name_of(grp.getgrgid, status.st_gid)}"
        raise InvalidInput(
            f"{entry} can be written by {who}, who could replace what runs with this account's rights; choose another "
            "path, or take that right away (chmod go-w)"
        )
    return False


def _name_of(database: Callable[[int], Sequence[object]], number: int) -> str:
    try:
        return str(database(number)[0])
    except KeyError:
        return str(number)

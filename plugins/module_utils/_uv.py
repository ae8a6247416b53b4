# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""uv: what it is told, and what its failures mean.

Addresses reach it through its environment alone: a process's environment can be read by its owner only, its arguments
by everybody.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ._errors import InvalidInput, PythonError
from ._process import Ended, Limit, run_program
from ._uv_errors import explain

# What every module that uses uv is given.
PACKAGE_ARGUMENTS: dict[str, Any] = {
    "uv": {"type": "str", "default": "uv"},
    "index_url": {"type": "str", "no_log": True},
    "extra_index_urls": {"type": "list", "elements": "str", "default": [], "no_log": True},
    "find_links": {"type": "list", "elements": "str", "default": []},
    "offline": {"type": "bool", "default": False},
    "timeout": {"type": "float", "default": 3600.0},
}

_VERSION = re.compile(r"3\.([1-9]\d)(?:\.\d+)?")

_YANKED = re.compile(r"`(?P<name>[^`]+)` is yanked(?: \(reason: \"(?P<reason>[^\n]*)\"\))?")
# What would lead uv to another environment than the one that it is told of.
_FOREIGN = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH", "UV_PYTHON", "UV_PROJECT", "UV_CONSTRAINT")


@dataclass(frozen=True)
class Source:
    """Where packages come from. ``offline`` forbids any request."""

    index_url: str | None
    extra_index_urls: tuple[str, ...]
    find_links: tuple[str, ...]
    offline: bool

    def variables(self) -> dict[str, str]:
        """Return the environment variables that tell uv."""
        variables = {}
        if self.index_url:
            variables["UV_DEFAULT_INDEX"] = self.index_url
        if self.extra_index_urls:
            variables["UV_INDEX"] = " ".join(self.extra_index_urls)
        if self.find_links:
            variables["UV_FIND_LINKS"] = ",".join(self.find_links)
        if self.offline:
            variables.update(UV_OFFLINE="1", UV_NO_INDEX="1")
        return variables


def source_of(params: Mapping[str, Any]) -> Source:
    """Return where a module's arguments say that packages come from.

    :raises InvalidInput: When an address cannot be used.
    """
    urls = [("index_url", params["index_url"])] if params["index_url"] else []
    urls += [("extra_index_urls", url) for url in params["extra_index_urls"]]
    for name, url in urls:
        # The address is not repeated: it may hold a password.
        if urlsplit(url).scheme not in ("http", "https", "file") or re.search(r"\s", url):
            raise InvalidInput(f"{name}: expected http, https or file URLs without blanks, found something else")
    for place in params["find_links"]:
        if "," in place or "@" in urlsplit(place).netloc or not (os.path.isabs(place) or "://" in place):
            raise InvalidInput(f"find_links: expected absolute paths, or URLs without a password, found {place!r}")
    if params["offline"] and (urls or not params["find_links"]):
        raise InvalidInput("offline: expected find_links and no index; name a directory of wheels")
    if params["timeout"] <= 0:
        raise InvalidInput(f"timeout: expected more than 0 seconds, found {params['timeout']:g}")
    return Source(
        params["index_url"] or None,
        tuple(params["extra_index_urls"]),
        tuple(params["find_links"]),
        params["offline"],
    )


def oldest_python(version: str) -> bool:
    """Whether a Python version is 3.10 or later."""
    return _VERSION.match(version) is not None


def parse_python(python: str, managed: bool) -> str:
    """Return the Python that is asked for, as uv understands it.

    :raises InvalidInput: When it is neither a version from 3.10 on nor an absolute path.
    """
    if os.path.isabs(python) and not managed:
        return python
    match = _VERSION.fullmatch(python)
    if match is None:
        raise InvalidInput(f"python: expected a version from 3.10 on, or an absolute path, found {python!r}")
    return python


def find_interpreter(python: str) -> str | None:
    """Return where this host has a Python, or None. Nothing is run."""
    return shutil.which(python if os.path.isabs(python) else "python" + ".".join(python.split(".")[:2]))


def find_uv(uv: str) -> str:
    """Return the path of uv: as it is named, in PATH, or beside this Python.

    :raises InvalidInput: When it is not there.
    """
    found = shutil.which(uv) or shutil.which(uv, path=os.path.dirname(sys.executable))
    if found is None:
        raise InvalidInput(f"uv: {uv!r} was not found; install uv, or name its path")
    return found


@dataclass(frozen=True)
class Uv:
    """uv, and all that its runs have in common.

    ``inherit`` are descriptors that stay open as long as uv, or anything that it started, runs. ``builds`` allows it to
    build packages.
    """

    executable: str
    source: Source
    limit: Limit
    directory: str
    cache: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    inherit: tuple[int, ...] = ()
    builds: bool = False

    def make(self, python: str, directory: str) -> None:
        """Make an empty environment that works wherever it is moved to.

        :raises PythonError: When it cannot.
        """
        self.run("venv", "--relocatable", "--no-project", "--python", python, directory)

    def install(self, directory: str, requirements: str) -> None:
        """Install exactly what a lock names, and require that nothing is missing.

        :raises PythonError: When it cannot.
        """
        # The lock's digests decide which file is taken, so it does not matter which index has it.
        python = ("--python", os.path.join(directory, "bin", "python"))
        options = ["--require-hashes", "--index-strategy", "unsafe-best-match", *python]
        if not self.builds:
            options += ["--only-binary", ":all:"]
        ended = self.run("pip", "sync", *options, "-", content=requirements)
        withdrawn = _YANKED.search(ended.errors)
        if withdrawn:
            reason = f" ({withdrawn['reason']})" if withdrawn["reason"] else ""
            raise PythonError(f"{withdrawn['name']} was withdrawn from its index{reason}; lock again to replace it")
        self.run("pip", "check", *python)

    def run(self, *arguments: str, content: str | None = None) -> Ended:
        """Run uv and return how it ended.

        :raises PythonError: When it fails.
        """
        environ = {
            **{name: value for name, value in os.environ.items() if name not in _FOREIGN},
            "UV_NO_CONFIG": "1",
            "UV_NO_PROGRESS": "1",
            "UV_NO_WRAP": "1",
            "UV_SYSTEM_CERTS": "1",
            "NO_COLOR": "1",
            **({"UV_CACHE_DIR": self.cache} if self.cache else {}),
            **self.variables,
            **self.source.variables(),
        }
        ended = run_program([self.executable, *arguments], environ, self.directory, self.limit, content, self.inherit)
        if ended.status:
            raise PythonError(explain(ended.errors or ended.output, ended.status))
        return ended

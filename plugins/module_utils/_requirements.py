# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lock of a Python environment: exact versions with the SHA-256 digests of their files, as uv and pip write it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ._errors import InvalidInput

_COMMENT = re.compile(r"(?:^|\s)#.*")
_HASH = re.compile(r"\s--hash[= ]sha256:([0-9a-f]{64})(?=\s|$)")
_PIN = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:\s*\[[A-Za-z0-9._, -]*\])?"
    r"\s*==\s*(?P<version>[A-Za-z0-9.!+_-]+)\s*(?:;\s*(?P<marker>[^;@]+?))?\s*"
)
_VERSIONS = r"(?:===|==|~=|!=|<=|>=|<|>)\s*[A-Za-z0-9.!+*_-]+"
_REQUIREMENT = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\s*(?:\[[A-Za-z0-9._, -]*\])?\s*"
    rf"(?:{_VERSIONS}(?:\s*,\s*{_VERSIONS})*)?\s*(?:;[^\n]+)?"
)
_PYTHONS = re.compile(r"(?P<oldest>3\.(?P<minor>[1-9]\d)(?:\.\d+)?)(?P<later>\+?)")
_LOCAL_CUDA = re.compile(r"cu(\d{2})(\d)")


@dataclass(frozen=True, order=True)
class Pin:
    """One package at one version. ``marker`` says on which hosts, empty for all of them."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}=={self.version}" + (f" ; {self.marker}" if self.marker else "")


def normalized(name: str) -> str:
    """Return a package's name as every index knows it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_requirements(text: str) -> tuple[Pin, ...]:
    """Read a lock; the pins come back sorted.

    :raises InvalidInput: When a line is anything but an exact version with its SHA-256 digests.
    """
    pins = []
    for number, line in _logical_lines(text):
        rest = _HASH.sub("", f"{line} ")
        match = _PIN.fullmatch(rest.strip())
        hashes = tuple(sorted(set(_HASH.findall(line))))
        if match is None or not hashes:
            raise InvalidInput(
                f"requirements: line {number}: expected NAME==VERSION with --hash=sha256:…, found {rest.strip()!r}"
                f"{'' if hashes else ' without one'}; lock the requirements with hashes"
            )
        pins.append(Pin(normalized(match["name"]), match["version"], match["marker"] or "", hashes))
    if not pins:
        raise InvalidInput("requirements: expected at least one package, found none")
    return tuple(sorted(pins))


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that say something, joined where a backslash continues them, with the number of their first."""
    start, joined = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        start = start if joined else number
        line = _COMMENT.sub("", line).rstrip()
        joined += line[:-1] if line.endswith("\\") else line
        if line.endswith("\\"):
            continue
        if joined.strip():
            yield start, joined.strip()
        joined = ""
    if joined.strip():
        yield start, joined.strip()


def environment_digest(pins: tuple[Pin, ...], python: str, managed: bool, machine: str) -> str:
    """Return what an environment of these packages for this Python is called; comments and order do not count.

    :param python: The Python that is asked for, a version or a path.
    :param managed: Whether it is one of uv's own.
    :param machine: The processor's architecture.
    """
    document = {
        "pins": [[pin.name, pin.version, pin.marker, *pin.hashes] for pin in pins],
        "python": python,
        "managed": managed,
        "machine": machine,
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


def locked_cuda(pins: tuple[Pin, ...]) -> str | None:
    """Return the CUDA version that the name of torch's build tells, as in 2.13.0+cu128, or None."""
    for pin in pins:
        if pin.name == "torch":
            match = _LOCAL_CUDA.fullmatch(pin.version.partition("+")[2])
            return match and f"{match[1]}.{match[2]}"
    return None


def compare(before: tuple[Pin, ...], after: tuple[Pin, ...]) -> list[dict[str, str | None]]:
    """Return what becomes of each package, with its versions; a package can have several, for different hosts."""
    olds, news = _versions(before), _versions(after)
    changes: list[dict[str, str | None]] = []
    for name in sorted({*olds, *news}):
        old, new = olds.get(name), news.get(name)
        action = "unchanged" if old == new else "added" if old is None else "removed" if new is None else "updated"
        changes.append({"name": name, "before": old, "after": new, "action": action})
    return changes


def _versions(pins: tuple[Pin, ...]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for pin in pins:
        found.setdefault(pin.name, []).append(pin.version)
    return {name: ", ".join(sorted(set(versions))) for name, versions in found.items()}


@dataclass(frozen=True)
class Pythons:
    """The versions of Python that a lock is for: all of a minor version from ``oldest`` on, or all later ones too."""

    oldest: str
    before: str | None

    @classmethod
    def parse(cls, text: str) -> Pythons:
        """Read ``3.12`` or ``3.12+``.

        :raises InvalidInput: When it is neither, or older than 3.10.
        """
        match = _PYTHONS.fullmatch(text)
        if match is None:
            raise InvalidInput(
                f"python: expected a version from 3.10 on, with a plus sign for all later ones too, found {text!r}"
            )
        return cls(match["oldest"], None if match["later"] else f"3.{int(match['minor']) + 1}")

    @property
    def conditions(self) -> tuple[str, ...]:
        """The markers that hold on every host with one of them."""
        linux = "sys_platform == 'linux'"
        return (linux, f"python_full_version < '{self.before}'") if self.before else (linux,)

    def simplified(self, lock: str) -> str:
        """Return a lock without these markers: that it is for such hosts need not be said on each line."""

        def simpler(match: re.Match[str]) -> str:
            left = [marker for marker in match[2].split(" and ") if marker not in self.conditions]
            return f"{match[1]} ; {' and '.join(left)}" if left else match[1]

        return re.sub(r"^(\S+) ; ([^()\n]+)(?= \\$)", simpler, lock, flags=re.MULTILINE)

    def __str__(self) -> str:
        return self.oldest if self.before else f"{self.oldest} or later"


def project_file(requirements: list[str], pythons: Pythons, sources: list[dict[str, Any]]) -> str:
    """Return a pyproject.toml from which uv resolves requirements for Linux.

    :param sources: Indexes (``url``) from which some ``packages`` come, and nothing else does.
    :raises InvalidInput: When one of them cannot be said in such a file.
    """
    if not requirements:
        raise InvalidInput("requirements: expected at least one, found none")
    for requirement in requirements:
        if _REQUIREMENT.fullmatch(requirement) is None:
            raise InvalidInput(f"requirements: expected a package with a range of versions, found {requirement!r}")
    lines = [
        "[project]",
        'name = "gpufleet-requirements"',
        'version = "0"',
        f"dependencies = {json.dumps(requirements, ensure_ascii=False)}",
        "[tool.uv]",
        f"environments = {json.dumps([' and '.join(pythons.conditions)])}",
    ]
    for number, source in enumerate(sources):
        if not re.match(r"(?:https?|file)://[^@\s]+\Z", source["url"]):
            raise InvalidInput("sources: expected http, https or file URLs without a password, found something else")
        lines += [
            "[[tool.uv.index]]",
            f'name = "source-{number}"',
            f"url = {json.dumps(source['url'])}",
            "explicit = true",
        ]
    lines.append("[tool.uv.sources]")
    for number, source in enumerate(sources):
        lines += [f'{json.dumps(normalized(name))} = {{index = "source-{number}"}}' for name in source["packages"]]
    return "\n".join(lines) + "\n"

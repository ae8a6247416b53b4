# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a package repository offers, whatever its format: packages, versions, and what they depend on."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_UPSTREAM = re.compile(r"(?:\d+:)?(\d+(?:\.\d+)*)")


@dataclass(frozen=True)
class Dependency:
    """One alternative of a dependency: a name, and a condition on its version such as ``=`` ``580.95.05-1``."""

    name: str
    relation: str = ""
    version: str = ""


@dataclass(frozen=True)
class Offer:
    """A package in one version. Each dependency is a tuple of alternatives."""

    name: str
    version: str
    depends: tuple[tuple[Dependency, ...], ...] = ()
    provides: tuple[str, ...] = ()

    @property
    def upstream(self) -> str:
        """The version without epoch and revision; for packages of the driver, the driver's version."""
        return upstream_of(self.version)


class Catalogue:
    """Everything that the repositories offer, the newest version of each package first."""

    def __init__(self, offers: Iterable[Offer], streams: Iterable[str] = ()) -> None:
        self.streams = frozenset(streams)
        self._offers: dict[str, list[Offer]] = {}
        self._providers: dict[str, set[str]] = {}
        for offer in offers:
            self._offers.setdefault(offer.name, []).append(offer)
            for name in offer.provides:
                self._providers.setdefault(name, set()).add(offer.name)
        for known in self._offers.values():
            known.sort(key=version_key, reverse=True)

    def __contains__(self, name: str) -> bool:
        return name in self._offers

    def __iter__(self) -> Iterator[Offer]:
        return (offer for known in self._offers.values() for offer in known)

    def of(self, name: str) -> list[Offer]:
        """Return the offers of a package, the newest first."""
        return self._offers.get(name, [])

    def at(self, name: str, upstream: str) -> Offer | None:
        """Return a package with this upstream version, of several revisions the last."""
        return next((offer for offer in self.of(name) if offer.upstream == upstream), None)

    def providing(self, name: str) -> list[Offer]:
        """Return the offers of what provides a virtual package."""
        providers = sorted(self._providers.get(name, ()))
        return [offer for provider in providers for offer in self.of(provider) if name in offer.provides]


def upstream_of(version: str) -> str:
    """Return a package's version without epoch and revision, or an empty text where it has no such form."""
    found = _UPSTREAM.match(version)
    return found.group(1) if found else ""


def branch_of(driver: str) -> int:
    """Return the branch of a driver's version."""
    return int(driver.partition(".")[0])


def compare_versions(one: str, other: str) -> int:
    """Compare two versions as dpkg does; negative when the first is older.

    rpm agrees with dpkg on versions that are made of numbers, dots and tildes, as those of NVIDIA's packages are.
    """
    for mine, theirs in zip(_parts(one), _parts(other)):
        result = _compare_part(mine, theirs)
        if result:
            return result
    return 0


@functools.cmp_to_key
def version_key(one: Offer, other: Offer) -> int:
    """Order offers by their versions."""
    return compare_versions(one.version, other.version)


def satisfies(version: str, dependency: Dependency) -> bool:
    """Whether a version meets a dependency's condition."""
    if not dependency.relation:
        return True
    if "-" not in dependency.version:  # of any revision, as rpm understands it
        version = version.rpartition("-")[0] or version
    result = compare_versions(version, dependency.version)
    return {
        "=": result == 0,
        "<<": result < 0,
        "<=": result <= 0,
        ">=": result >= 0,
        ">>": result > 0,
    }.get(dependency.relation, False)


def _parts(version: str) -> tuple[str, str, str]:
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    return (epoch, upstream, revision) if dash else (epoch, rest, "0")


def _compare_part(one: str, other: str) -> int:
    while one or other:
        mine, theirs = _leading(one, r"\D*"), _leading(other, r"\D*")
        for index in range(max(len(mine), len(theirs))):
            difference = _weight(mine, index) - _weight(theirs, index)
            if difference:
                return difference
        one, other = one[len(mine) :], other[len(theirs) :]
        mine, theirs = _leading(one, r"\d*"), _leading(other, r"\d*")
        if int(mine or 0) != int(theirs or 0):
            return int(mine or 0) - int(theirs or 0)
        one, other = one[len(mine) :], other[len(theirs) :]
    return 0


def _leading(text: str, pattern: str) -> str:
    found = re.match(pattern, text)
    return found.group() if found else ""


def _weight(text: str, index: int) -> int:
    """Order characters as dpkg does: a tilde before the end, the end before letters, letters before the rest."""
    if index >= len(text):
        return 0
    character = text[index]
    if character == "~":
        return -1
    return ord(character) if character.isalpha() else ord(character) + 256

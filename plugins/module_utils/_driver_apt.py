# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading the index of an apt repository that has a flat layout, as NVIDIA's have."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from typing import Callable

from ._driver_offers import Dependency, Offer
from ._errors import DriverError, HubError

_DEPENDENCY = re.compile(r"\s*([a-z0-9][a-z0-9.+-]*)(?::\w+)?\s*(?:\(\s*([<>=]+)\s*([^\s)]+)\s*\))?")


def read_apt(url: str, fetch: Callable[[str], bytes]) -> list[Offer]:
    """Return what an apt repository offers.

    :param url: The repository's address, where its ``Packages.gz`` is.
    :param fetch: Returns what is at a URL; raises :class:`HubError` when nothing is.
    """
    address = url.rstrip("/") + "/Packages"
    try:
        compressed = fetch(address + ".gz")
    except HubError:
        return parse_packages(fetch(address).decode("utf-8", "replace"))
    try:
        return parse_packages(gzip.decompress(compressed).decode("utf-8", "replace"))
    except (OSError, EOFError) as error:
        raise DriverError(f"{address}.gz: expected a package index, found something else: {error}") from None


def parse_packages(text: str) -> list[Offer]:
    """Return the packages of an index."""
    return [_offer(fields) for fields in _stanzas(text) if "Package" in fields and "Version" in fields]


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, str] = {}
        for line in stanza.splitlines():
            name, colon, value = line.partition(":")
            if colon and not line.startswith((" ", "\t")):
                fields[name] = value.strip()
        yield fields


def _offer(fields: dict[str, str]) -> Offer:
    depends = ", ".join(fields[name] for name in ("Pre-Depends", "Depends") if fields.get(name))
    return Offer(
        name=fields["Package"],
        version=fields["Version"],
        depends=tuple(
            alternatives for alternatives in (parse_alternatives(part) for part in depends.split(",")) if alternatives
        ),
        provides=tuple(dependency.name for dependency in parse_alternatives(fields.get("Provides", ""), ",")),
    )


def parse_alternatives(text: str, separator: str = "|") -> tuple[Dependency, ...]:
    """Return what a dependency, or a list with another separator, names."""
    found = (_DEPENDENCY.match(part) for part in text.split(separator))
    return tuple(Dependency(match.group(1), match.group(2) or "", match.group(3) or "") for match in found if match)

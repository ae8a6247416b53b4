# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading the index of a dnf repository: its packages and the streams of its module."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
from collections.abc import Iterator
from typing import Callable
from xml.etree import ElementTree

from ._driver_offers import Dependency, Offer
from ._errors import DriverError

_RELATIONS = {"EQ": "=", "LT": "<<", "LE": "<=", "GE": ">=", "GT": ">>"}
_DECOMPRESS = {"gz": gzip.decompress, "xz": lzma.decompress, "bz2": bz2.decompress}

# Which streams the driver's module has; a host need not have PyYAML.
_STREAM = re.compile(r"^\s+name:\s*\"?nvidia-driver\"?\s*\n\s+stream:\s*\"?([\w.-]+)\"?\s*$", re.MULTILINE)


def read_dnf(url: str, machine: str, fetch: Callable[[str], bytes]) -> tuple[list[Offer], list[str]]:
    """Return what a dnf repository offers, and the streams of its module ``nvidia-driver``.

    :param machine: The processor's architecture; packages for others do not count.
    :param fetch: Returns what is at a URL; raises :class:`HubError` when nothing is.
    """
    base = url.rstrip("/")
    address = f"{base}/repodata/repomd.xml"
    parts = dict(_parts(_xml(fetch(address), address)))
    if "primary" not in parts:
        raise DriverError(f"{address}: expected the index of a repository, found no list of packages in it")
    primary = _xml(_content(base, parts["primary"], fetch), f"{base}/{parts['primary']}")
    offers = [
        _offer(package) for package in _children(primary, "package") if _text(package, "arch") in (machine, "noarch")
    ]
    streams: list[str] = []
    if "modules" in parts:
        streams = _STREAM.findall(_content(base, parts["modules"], fetch).decode("utf-8", "replace"))
    return offers, streams


def _offer(package: ElementTree.Element) -> Offer:
    version = next(_children(package, "version"))
    entries = {
        kind: [entry for parent in _descendants(package, kind) for entry in _children(parent, "entry")]
        for kind in ("requires", "provides")
    }
    return Offer(
        name=_text(package, "name"),
        version=f"{version.get('epoch', '0')}:{version.get('ver', '')}-{version.get('rel', '')}",
        depends=tuple((_dependency(entry),) for entry in entries["requires"]),
        provides=tuple(entry.get("name", "") for entry in entries["provides"]),
    )


def _dependency(entry: ElementTree.Element) -> Dependency:
    relation = _RELATIONS.get(entry.get("flags", ""), "")
    version = f"{entry.get('epoch') or '0'}:{entry.get('ver')}"
    if entry.get("rel"):
        version += f"-{entry.get('rel')}"
    return Dependency(entry.get("name", ""), relation, version if relation else "")


def _parts(repomd: ElementTree.Element) -> Iterator[tuple[str, str]]:
    for data in _children(repomd, "data"):
        for location in _children(data, "location"):
            yield data.get("type", ""), location.get("href", "")


def _xml(content: bytes, where: str) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise DriverError(f"{where}: expected the index of a repository, found something else: {error}") from None


def _content(base: str, path: str, fetch: Callable[[str], bytes]) -> bytes:
    content = fetch(f"{base}/{path}")
    decompress = _DECOMPRESS.get(path.rpartition(".")[2], bytes)
    try:
        return decompress(content)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise DriverError(f"{base}/{path}: expected a compressed index, found something else: {error}") from None


def _children(element: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    return (child for child in element if child.tag.rpartition("}")[2] == name)


def _descendants(element: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    return (child for child in element.iter() if child.tag.rpartition("}")[2] == name)


def _text(element: ElementTree.Element, name: str) -> str:
    return next((child.text or "" for child in _children(element, name)), "")

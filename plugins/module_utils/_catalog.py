# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The catalog: what people write. One entry names a model, where it comes from, and which of its files are wanted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ._convert_spec import parse_convert, require_convertible
from ._errors import InvalidInput
from ._gpu_requirements import parse_requirements
from ._lockfile import (
    WISHES,
    check_mapping,
    check_name,
    check_paths_agree,
    check_repo_id,
    check_revision,
    require_keys,
    unexpected,
)
from ._smoke_spec import parse_smoke

# Formats whose loaders unpickle: opening such a file runs whatever its author put into it.
PICKLE_SUFFIXES = (
    ".bin",
    ".ckpt",
    ".dill",
    ".joblib",
    ".mar",
    ".nemo",
    ".npy",
    ".npz",
    ".pickle",
    ".pkl",
    ".pt",
    ".pth",
    ".t7",
)
CODE_SUFFIXES = (".py", ".pyc", ".so")

_OPTIONAL_KEYS = {"revision", "include", "exclude", "allow_pickle", "allow_code", *WISHES}


@dataclass(frozen=True)
class Entry:
    """One model of the catalog. ``include`` and ``exclude`` are globs over a file's whole path."""

    name: str
    repo_id: str
    revision: str = "main"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    allow_pickle: bool = False
    allow_code: bool = False
    requires: Mapping[str, Any] | None = None
    smoke: Mapping[str, Any] | None = None
    convert: Mapping[str, Any] | None = None

    def select(self, paths: Iterable[str]) -> list[str]:
        """Return the wanted paths, sorted.

        :raises InvalidInput: When a pattern or the whole entry matches nothing (with the list of what there is), or
            when a wanted file could run code once it is loaded, or when they are not what a conversion takes.
        """
        available = sorted(paths)
        for pattern in self.include:
            if not any(fnmatchcase(path, pattern) for path in available):
                raise InvalidInput(
                    f"{self.name}: include pattern {pattern!r} matches no file of {self.repo_id}; "
                    f"there are: {', '.join(available) or 'none'}"
                )
        selected = [
            path
            for path in available
            if (not self.include or _matches(path, self.include)) and not _matches(path, self.exclude)
        ]
        if not selected:
            raise InvalidInput(
                f"{self.name}: include and exclude leave no file of {self.repo_id}; "
                f"there are: {', '.join(available) or 'none'}"
            )
        self._refuse(
            selected, PICKLE_SUFFIXES, self.allow_pickle, "pickle formats, which run code when loaded", "pickle"
        )
        self._refuse(selected, CODE_SUFFIXES, self.allow_code, "program code", "code")
        if self.convert is not None:
            require_convertible(self.name, selected)
        return selected

    def _refuse(self, selected: list[str], suffixes: tuple[str, ...], allowed: bool, what: str, switch: str) -> None:
        found = [path for path in selected if path.lower().endswith(suffixes)]
        if found and not allowed:
            raise InvalidInput(
                f"{self.name}: {', '.join(found)} of {self.repo_id}: {what}, are refused; "
                f"leave them out with 'exclude', or set 'allow_{switch}: true' if you trust the repository"
            )


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _parse_patterns(where: str, value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) and item for item in value):
        raise unexpected(where, "a list of globs such as '*.json'", value)
    return tuple(value)


def _parse_switch(where: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise unexpected(where, "true or false", value)
    return value


def _parse_entry(where: str, value: object) -> Entry:
    document = require_keys(where, value, {"name", "repo_id"}, _OPTIONAL_KEYS)
    name = check_name(f"{where}.name", document["name"])
    where = f"{where} ({name})"
    parse_requirements(f"{where}.requires", document.get("requires"))
    parse_smoke(f"{where}.smoke", document.get("smoke"))
    parse_convert(f"{where}.convert", document.get("convert"))
    return Entry(
        name=name,
        repo_id=check_repo_id(f"{where}.repo_id", document["repo_id"]),
        revision=check_revision(f"{where}.revision", document.get("revision", "main")),
        include=_parse_patterns(f"{where}.include", document.get("include")),
        exclude=_parse_patterns(f"{where}.exclude", document.get("exclude")),
        allow_pickle=_parse_switch(f"{where}.allow_pickle", document.get("allow_pickle", False)),
        allow_code=_parse_switch(f"{where}.allow_code", document.get("allow_code", False)),
        **{key: check_mapping(f"{where}.{key}", document.get(key)) for key in WISHES},
    )


def parse_catalog(value: object) -> tuple[Entry, ...]:
    """Check a catalog.

    :param value: The list that people wrote, as YAML gives it.
    :raises InvalidInput: With the place, what was expected and what was found.
    """
    if not isinstance(value, (list, tuple)) or not value:
        raise unexpected("catalog", "a list of at least one model", value)
    entries = tuple(_parse_entry(f"catalog[{index}]", item) for index, item in enumerate(value))
    check_paths_agree("catalog", [entry.name for entry in entries])
    return entries

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Derived files: what a host made from a model's own files, and what it made them with."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ._convert_spec import Convert
from ._errors import InvalidInput
from ._lockfile import File, Model, check_paths_agree, parse_files, require_keys, unexpected

_RECIPE = 1  # to be counted up whenever the same packages make something else of the same files
_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Derived:
    """The derived files of one model, below its directory like its own.

    :ivar model: The model's name.
    :ivar key: What :func:`key_of` said of everything that they depend on.
    :ivar packages: The versions of the packages that made them.
    :ivar cosine: The smallest cosine of their outputs to the model's own, when they were made.
    """

    model: str
    key: str
    files: tuple[File, ...]
    packages: Mapping[str, str]
    cosine: float

    def to_json(self) -> dict[str, Any]:
        """Return it as the manifest holds it."""
        return {
            "model": self.model,
            "key": self.key,
            "packages": dict(self.packages),
            "cosine": self.cosine,
            "files": [file.to_json() for file in self.files],
        }


def key_of(model: Model, task: str, convert: Convert, packages: Mapping[str, str]) -> str:
    """Return the SHA-256 over everything that a conversion depends on: equal keys, equal files."""
    content = {
        "recipe": _RECIPE,
        "files": sorted([file.path, file.sha256] for file in model.files),
        "task": task,
        "format": convert.format,
        "bits": convert.bits,
        "packages": dict(packages),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def parse_derived(value: object, models: Iterable[Model]) -> tuple[Derived, ...]:
    """Check the derived files of a manifest.

    :raises InvalidInput: When they are not what was written.
    """
    if not isinstance(value, list):
        raise unexpected("derived", "a list", value)
    by_name = {model.name: model for model in models}
    found: dict[str, Derived] = {}
    for index, item in enumerate(value):
        where = f"derived[{index}]"
        document = require_keys(where, item, {"model", "key", "packages", "cosine", "files"}, set())
        name, key, packages, cosine = (document[name] for name in ("model", "key", "packages", "cosine"))
        if name not in by_name or name in found:
            raise unexpected(f"{where}.model", "a model of the generation", name)
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise unexpected(f"{where}.key", "64 lower-case hex digits", key)
        if not isinstance(packages, Mapping) or not isinstance(cosine, float):
            raise InvalidInput(f"{where}: not what was written")
        files = parse_files(f"{where}.files", document["files"])
        check_paths_agree(where, [file.path for file in (*by_name[name].files, *files)])
        found[name] = Derived(name, key, files, packages, cosine)
    return tuple(found.values())

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lock: for every model a commit, and for every file its path, size and SHA-256.

Everything that reaches a host's disk passes through :func:`parse_models` first, so this is the one place that decides
which names are harmless.
"""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ._errors import InvalidInput

LOCK_VERSION = 1

MAX_FILE_SIZE = 1 << 44  # 16 TiB: larger than any model, small enough for every arithmetic on it

# What a catalog says of a model beside its files. It goes into the lock as it is.
WISHES = ("requires", "smoke", "convert")

_SHOWN = 200  # characters of a value in a message
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHOWN // 2

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DEEPEST = 64  # parts of a path; far more than any model has, and far fewer than Python can follow
_REPO_ID = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]{0,95}/)?[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class File:
    """One file of a model: its path below the model's directory, its size in bytes, its SHA-256 in hex."""

    path: str
    size: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return the file as the lock and the manifest hold it."""
        return {"path": self.path, "size": self.size, "sha256": self.sha256}


@dataclass(frozen=True)
class Model:
    """One model of the lock, pinned to a commit."""

    name: str
    repo_id: str
    revision: str
    commit: str
    files: tuple[File, ...]
    requires: Mapping[str, Any] | None = None
    smoke: Mapping[str, Any] | None = None
    convert: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the model as the lock and the manifest hold it."""
        document: dict[str, Any] = {
            "name": self.name,
            "repo_id": self.repo_id,
            "revision": self.revision,
            "commit": self.commit,
            "files": [file.to_json() for file in self.files],
        }
        for key in WISHES:
            if getattr(self, key) is not None:
                document[key] = getattr(self, key)
        return document


def unexpected(where: str, expected: str, found: object) -> InvalidInput:
    """Return the error for a value that is not what its place needs."""
    try:
        shown = _SHORT.repr(found)[:_SHOWN]
    except ValueError:  # a number with too many digits to print
        shown = type(found).__name__
    return InvalidInput(f"{where}: expected {expected}, found {shown}")


def _match(where: str, value: object, pattern: re.Pattern[str], expected: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise unexpected(where, expected, value)
    return value


def is_count(value: object) -> bool:
    """Whether a value from JSON is a whole number from 0 to 2^63 - 1; Python takes ``true`` for a number, too."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def check_name(where: str, value: object) -> str:
    """Return a model's name; it becomes the name of a directory."""
    return _match(where, value, _NAME, "a name of letters, digits, '.', '_' and '-' that starts with a letter or digit")


def check_repo_id(where: str, value: object) -> str:
    """Return a repository's id on the Hub."""
    text = _match(where, value, _REPO_ID, "a repository id such as 'org/name'")
    if ".." in text or "--" in text:
        raise unexpected(where, "a repository id without '..' and '--'", value)
    return text


def check_revision(where: str, value: object) -> str:
    """Return a branch, a tag, a reference such as ``refs/pr/1``, or a commit."""
    if not isinstance(value, str) or not value or len(value) > 255 or not value.isprintable() or " " in value:
        raise unexpected(where, "a branch, a tag or a commit", value)
    return value


def check_path(where: str, value: object) -> str:
    """Return a file's path if it stays below the model's directory on every filesystem."""
    if not isinstance(value, str) or not value:
        raise unexpected(where, "a relative path", value)
    if "\\" in value or not all(character.isprintable() for character in value):
        raise unexpected(where, "a path of printable characters without backslashes", value)
    parts = value.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise unexpected(where, "a relative path without empty parts, '.' and '..'", value)
    if any(len(part.encode()) > 255 for part in parts) or len(value.encode()) > 1024:
        raise unexpected(where, "a path of at most 1024 bytes, each part at most 255", value)
    if len(parts) > _DEEPEST:
        raise unexpected(where, f"a path of at most {_DEEPEST} parts", value)
    return value


def check_mapping(where: str, value: object) -> Mapping[str, Any] | None:
    """Return a mapping with text keys, or None."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise unexpected(where, "a mapping", value)
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError):
        raise unexpected(where, "what JSON can hold", value) from None
    return value


def check_paths_agree(where: str, paths: Iterable[str]) -> None:
    """Refuse paths that cannot be kept side by side on every filesystem.

    Duplicates, names that differ in case or in Unicode normalization alone, and a file where another path needs a
    directory.
    """
    files: dict[str, str] = {}
    directories: dict[str, str] = {}
    for path in paths:
        key = _fold(path)
        if key in files:
            raise InvalidInput(f"{where}: {path!r} and {files[key]!r} are the same path on some filesystems")
        files[key] = path
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            directory = "/".join(parts[:depth])
            known = directories.setdefault(_fold(directory), directory)
            if known != directory:
                raise InvalidInput(f"{where}: {directory!r} and {known!r} are the same path on some filesystems")
    for key, path in files.items():
        if key in directories:
            raise InvalidInput(f"{where}: {path!r} is a file and a directory at once")


def _fold(path: str) -> str:
    """Return what all names have in common that some filesystem takes for one (Unicode, canonical caseless match)."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())


def require_keys(where: str, value: object, required: set[str], optional: set[str]) -> Mapping[str, Any]:
    """Return a mapping that has all the required keys and no unknown one."""
    if not isinstance(value, Mapping):
        raise unexpected(where, "a mapping", value)
    missing = sorted(required - set(value))
    if missing:
        raise InvalidInput(f"{where}: {', '.join(missing)} missing")
    unknown = sorted(str(key) for key in value if key not in required | optional)
    if unknown:
        raise InvalidInput(f"{where}: unknown key {', '.join(unknown)}")
    return value


def _parse_file(where: str, value: object) -> File:
    document = require_keys(where, value, {"path", "size", "sha256"}, set())
    path = check_path(f"{where}.path", document["path"])
    size = document["size"]
    if not is_count(size) or size > MAX_FILE_SIZE:
        raise unexpected(f"{where}.size ({path})", f"a size in bytes from 0 to {MAX_FILE_SIZE}", size)
    sha256 = _match(f"{where}.sha256 ({path})", document["sha256"], _SHA256, "64 lower-case hex digits")
    return File(path, size, sha256)


def parse_files(where: str, value: object) -> tuple[File, ...]:
    """Check the files of a model.

    :raises InvalidInput: With the place, what was expected and what was found.
    """
    if not isinstance(value, (list, tuple)) or not value:
        raise unexpected(where, "a list of at least one file", value)
    files = tuple(_parse_file(f"{where}[{index}]", item) for index, item in enumerate(value))
    check_paths_agree(where, [file.path for file in files])
    return files


def _parse_model(where: str, value: object) -> Model:
    document = require_keys(where, value, {"name", "repo_id", "revision", "commit", "files"}, set(WISHES))
    name = check_name(f"{where}.name", document["name"])
    where = f"{where} ({name})"
    return Model(
        name=name,
        repo_id=check_repo_id(f"{where}.repo_id", document["repo_id"]),
        revision=check_revision(f"{where}.revision", document["revision"]),
        commit=_match(f"{where}.commit", document["commit"], _COMMIT, "a commit of 40 lower-case hex digits"),
        files=parse_files(f"{where}.files", document["files"]),
        **{key: check_mapping(f"{where}.{key}", document.get(key)) for key in WISHES},
    )


def parse_models(value: object, where: str = "models") -> tuple[Model, ...]:
    """Check the models of a lock.

    :param value: The ``models`` list of a lock, as JSON gives it.
    :param where: What to call it in a message.
    :raises InvalidInput: With the place, what was expected and what was found.
    """
    if not isinstance(value, (list, tuple)):
        raise unexpected(where, "a list of models", value)
    models = tuple(_parse_model(f"{where}[{index}]", item) for index, item in enumerate(value))
    check_paths_agree(where, [model.name for model in models])
    sizes: dict[str, int] = {}
    for model in models:
        for file in model.files:
            if sizes.setdefault(file.sha256, file.size) != file.size:
                raise InvalidInput(
                    f"{where}: {file.path} of {model.name} has {file.size} bytes, another file with the same SHA-256 "
                    f"{file.sha256} has {sizes[file.sha256]}"
                )
    return models


def parse_lock(text: str, where: str) -> tuple[Model, ...]:
    """Read a lock file's text.

    :raises InvalidInput: When it is no JSON, of another version, or not a lock.
    """
    try:
        document = json.loads(text, object_pairs_hook=_refuse_duplicates)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{where}: not valid JSON: {error}; restore it from version control or lock again") from None
    document = require_keys(where, document, {"lock_version", "models"}, set())
    version = document["lock_version"]
    if version != LOCK_VERSION or isinstance(version, bool):
        raise unexpected(f"{where}: lock_version", str(LOCK_VERSION), version)
    return parse_models(document["models"], f"{where}: models")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return document


def with_wishes(models: Iterable[Model], locked: Iterable[Model]) -> list[Model]:
    """Return models with what a lock says of them beside their files, where it has them."""
    now = {model.name: model for model in locked}
    return [
        replace(model, **{key: getattr(now[model.name], key) for key in WISHES}) if model.name in now else model
        for model in models
    ]


def dump_lock(models: Iterable[Model]) -> str:
    """Return the lock file's text: the same bytes for the same models, whatever their order."""
    ordered = sorted(models, key=lambda model: model.name)
    document = {"lock_version": LOCK_VERSION, "models": [model.to_json() for model in ordered]}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def lock_digest(models: Iterable[Model]) -> str:
    """Return the SHA-256 over what the models are on disk: names, origins and files, in any order.

    Requirements, smoke tests and conversions do not count: they say nothing about the bytes that are received. What is
    converted depends on the host's own packages as well, and has keys of its own (:mod:`_derived`).
    """
    content = [
        [model.name, model.repo_id, model.commit, sorted([f.path, f.size, f.sha256] for f in model.files)]
        for model in sorted(models, key=lambda model: model.name)
    ]
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()

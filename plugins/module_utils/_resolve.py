# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a catalog to a lock: pin every entry to a commit, and every file to its SHA-256."""

from __future__ import annotations

import concurrent.futures
from dataclasses import dataclass
from typing import Any, Union

from ._catalog import Entry
from ._errors import InvalidInput
from ._hub import HubClient, RemoteFile
from ._lockfile import WISHES, Model, parse_models

_FETCHERS = 8  # small files at once

Upgrade = Union[bool, tuple[str, ...]]


@dataclass(frozen=True)
class Pinned:
    """A model of the new lock, and what became of it: ``added``, ``updated`` or ``unchanged``."""

    model: Model
    action: str


def resolve(catalog: tuple[Entry, ...], locked: tuple[Model, ...], upgrade: Upgrade, hub: HubClient) -> list[Pinned]:
    """Make a lock's models from a catalog.

    An entry whose repository and revision are as they were keeps its commit. Its files are selected again, so that
    changed patterns take effect; the digests of files that are locked already are kept, as a commit never changes.

    :param locked: The models of the former lock.
    :param upgrade: True to pin everything anew, or the names of the models to pin anew.
    :raises ModelsError: When an entry cannot be resolved.
    """
    if isinstance(upgrade, tuple):
        unknown = sorted(set(upgrade) - {entry.name for entry in catalog})
        if unknown:
            raise InvalidInput(f"upgrade: {', '.join(unknown)} is not in the catalog")
    former = {model.name: model for model in locked}
    return [_resolve_entry(entry, former.get(entry.name), upgrade, hub) for entry in catalog]


def _resolve_entry(entry: Entry, former: Model | None, upgrade: Upgrade, hub: HubClient) -> Pinned:
    upgraded = upgrade if isinstance(upgrade, bool) else entry.name in upgrade
    kept = former
    if kept is not None and (upgraded or (kept.repo_id, kept.revision) != (entry.repo_id, entry.revision)):
        kept = None
    commit = kept.commit if kept else hub.commit(entry.repo_id, entry.revision)
    remote = hub.files(entry.repo_id, commit)
    selected = [remote[path] for path in entry.select(remote)]
    _refuse_unsafe(entry, selected)
    known: dict[tuple[str, int], str] = {}
    if former is not None and (former.repo_id, former.commit) == (entry.repo_id, commit):
        known = {(file.path, file.size): file.sha256 for file in former.files}

    def digest(file: RemoteFile) -> str:
        return file.sha256 or known.get((file.path, file.size)) or hub.content_sha256(entry.repo_id, commit, file)

    with concurrent.futures.ThreadPoolExecutor(_FETCHERS) as executor:
        files = [
            {"path": file.path, "size": file.size, "sha256": sha256}
            for file, sha256 in zip(selected, executor.map(digest, selected))
        ]
    document: dict[str, Any] = {
        "name": entry.name,
        "repo_id": entry.repo_id,
        "revision": entry.revision,
        "commit": commit,
        "files": files,
        **{key: getattr(entry, key) for key in WISHES},
    }
    # Whatever the Hub answered must be a lock that hosts accept.
    (model,) = parse_models([document], f"{entry.repo_id} as the Hub describes it")
    return Pinned(model, "added" if former is None else "unchanged" if model == former else "updated")


def _refuse_unsafe(entry: Entry, selected: list[RemoteFile]) -> None:
    unsafe = [file.path for file in selected if file.security == "unsafe"]
    if unsafe:
        raise InvalidInput(
            f"{entry.name}: the Hub's security scan marks {', '.join(unsafe)} of {entry.repo_id} as unsafe; "
            "leave it out with 'exclude', or take another repository"
        )

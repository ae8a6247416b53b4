# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a store holds, told without reading any model's content."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import Any

from ._activation import Activation
from ._generation import Generations
from ._ledger import Ledger
from ._lockfile import Model
from ._manifest import Manifest
from ._store import Store


def describe_store(store: Store | None) -> dict[str, Any]:
    """Return what ``model_store_info`` reports, for a store or for there being none."""
    if store is None:
        return {
            "exists": False,
            "current": None,
            "activation": None,
            "generations": [],
            "partials": [],
            "blobs": 0,
            "disk_bytes": 0,
            "free_bytes": None,
        }
    generations = Generations(store)
    current = generations.current()
    manifests = generations.manifests()
    last = Ledger(store.root).last_verified()
    activation = Activation.read(store.root)
    partials = _partials(store)
    blobs = store.blobs()
    return {
        "exists": True,
        "current": current,
        "activation": activation and asdict(activation),
        "generations": [
            {
                "generation": number,
                "current": number == current,
                **_describe_generation(generations.path(number), manifests.get(number), last),
            }
            for number in generations.numbers()
        ],
        "partials": partials,
        "blobs": sum(1 for name in blobs if len(name) == 64),
        "disk_bytes": sum(status.st_blocks * 512 for status in blobs.values())
        + sum(partial["disk_bytes"] for partial in partials),
        "free_bytes": store.free_bytes()[0],
    }


def _describe_generation(path: str, manifest: Manifest | None, last: dict[str, tuple[int, str]]) -> dict[str, Any]:
    if manifest is None:
        return {"served": False, "lock_digest": None, "models": [], "smoke": None}
    return {
        "served": manifest.served,
        "lock_digest": manifest.digest,
        "models": describe_models(path, manifest, last),
        "smoke": manifest.smoke and {**manifest.smoke, "models": _without_outputs(manifest.smoke["models"])},
    }


def _without_outputs(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in model.items() if name != "golden"} for model in models]


def describe_models(path: str, manifest: Manifest, last: dict[str, tuple[int, str]]) -> list[dict[str, Any]]:
    """Return what ``model_store_info`` reports of the models of a generation.

    :param path: Where the generation lies.
    :param last: What the ledger says of when blobs were verified.
    """
    return [_describe_model(path, manifest, model, last) for model in manifest.models]


def _describe_model(path: str, manifest: Manifest, model: Model, last: dict[str, tuple[int, str]]) -> dict[str, Any]:
    derived = manifest.derived_files(model)
    verifications = [last.get(file.sha256) for file in (*model.files, *derived)]
    known = [verification for verification in verifications if verification is not None]
    return {
        "name": model.name,
        "repo_id": model.repo_id,
        "commit": model.commit,
        "path": f"{path}/{model.name}",
        "files": len(model.files),
        "bytes": sum(file.size for file in model.files),
        "derived": [f"{path}/{model.name}/{file.path}" for file in derived],
        "derived_bytes": sum(file.size for file in derived),
        "last_verified": min(known)[1] if len(known) == len(verifications) else None,
    }


def _partials(store: Store) -> list[dict[str, Any]]:
    found = []
    with contextlib.suppress(FileNotFoundError), store.partials() as directory:
        for name in directory.names():
            status = directory.stat(name)
            if status is not None and len(name) == 64:
                found.append({"sha256": name, "size": status.st_size, "disk_bytes": status.st_blocks * 512})
    return found

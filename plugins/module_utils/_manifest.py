# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The manifest of a generation: which models it holds, whether it was served, and after which one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ._derived import Derived, parse_derived
from ._errors import InvalidInput
from ._lockfile import File, Model, is_count, lock_digest, parse_models

MANIFEST = ".generation.json"  # in the generation's directory


@dataclass(frozen=True)
class Manifest:
    """What a generation holds.

    ``served`` says whether it ever was the one that ``current`` points to, and ``previous`` which one it then followed.
    ``smoke`` is what came of its last smoke test, or None. ``derived`` are the files that the host itself made of them.
    """

    generation: int
    models: tuple[Model, ...]
    served: bool = False
    previous: int | None = None
    smoke: Mapping[str, Any] | None = None
    derived: tuple[Derived, ...] = ()

    @property
    def digest(self) -> str:
        """The digest of the lock that it was made from."""
        return lock_digest(self.models)

    def files(self) -> Iterator[tuple[Model, File]]:
        """Yield every file with its model, the model's own ones first."""
        for model in self.models:
            for file in (*model.files, *self.derived_files(model)):
                yield model, file

    def derived_files(self, model: Model) -> tuple[File, ...]:
        """Return the files that the host made of a model."""
        return next((derived.files for derived in self.derived if derived.model == model.name), ())

    def dump(self) -> bytes:
        """Return the manifest as it is stored."""
        document = {
            "manifest_version": 1,
            "generation": self.generation,
            "lock_digest": self.digest,
            "served": self.served,
            "previous": self.previous,
            "models": [model.to_json() for model in self.models],
            "derived": [derived.to_json() for derived in self.derived],
            "smoke": self.smoke,
        }
        document["checksum"] = _checksum(document)
        return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def load(cls, content: bytes, generation: int) -> Manifest:
        """Read a manifest.

        :raises InvalidInput: When it is damaged; it carries a checksum of what it says.
        """
        where = f"manifest of generation {generation}"
        try:
            document: dict[str, Any] = json.loads(content)
            checksum = document.pop("checksum")
            served, previous = document["served"], document["previous"]
            # A later one as its predecessor would have the way back go round in circles.
            earlier = previous is None or (is_count(previous) and 0 < previous < generation)
            own = document["manifest_version"] == 1 and document["generation"] == generation
            if checksum != _checksum(document) or not own or not earlier or not isinstance(served, bool):
                raise InvalidInput
            models = parse_models(document["models"])
            derived = parse_derived(document.get("derived", []), models)
            return cls(generation, models, served, previous, document.get("smoke"), derived)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidInput):
            raise InvalidInput(f"{where} is damaged; stage its models again") from None


def _checksum(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

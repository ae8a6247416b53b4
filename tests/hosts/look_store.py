# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Print what a host's store holds as JSON, without any help of the collection's: `python3 look_store.py ROOT`."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path


def main() -> None:
    """Hash everything."""
    root = Path(sys.argv[1])
    current = root / "current"
    print(
        json.dumps(
            {
                "current": str(current.readlink()) if current.is_symlink() else None,
                "generations": {path.name: _sums(path) for path in sorted((root / "generations").glob("*"))},
                "blobs": {path.name: _sha256(path) for path in (root / "blobs").glob("*/*") if not path.suffix},
                "partial": sorted(path.name for path in (root / "partial").glob("*")),
            }
        )
    )


def _sums(generation: Path) -> dict[str, str]:
    files = [path for path in generation.rglob("*") if path.is_file() and path.name != ".generation.json"]
    return {str(path.relative_to(generation)): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


main()

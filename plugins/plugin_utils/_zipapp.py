# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A part of the engine as one file that Python runs by itself: a zip archive of its sources, as they are."""

from __future__ import annotations

import ast
import io
import zipfile
from pathlib import Path

ENGINE = Path(__file__).parents[1] / "module_utils"

_PACKAGE = "gpufleet_models"
_MAIN = """\
from {package}.{entry} import main

raise SystemExit(main())
"""


def build(entry: str, engine: Path = ENGINE) -> bytes:
    """Return the program that runs the function ``main`` of one of the engine's files.

    The same sources give the same bytes, on every control node: nothing is compressed, and there are no times.

    :param entry: The file's name without its suffix.
    :raises ValueError: When something of Ansible would be needed.
    """
    files = {"__main__.py": _MAIN.format(package=_PACKAGE, entry=entry), f"{_PACKAGE}/__init__.py": ""}
    for name in needed(entry, engine):
        files[f"{_PACKAGE}/{name}.py"] = (engine / f"{name}.py").read_text(encoding="utf-8")
    archive = io.BytesIO()
    archive.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_STORED) as stream:
        for path, text in sorted(files.items()):
            member = zipfile.ZipInfo(path, date_time=(1980, 1, 1, 0, 0, 0))
            member.create_system = 3
            member.external_attr = 0o100644 << 16
            stream.writestr(member, text)
    return archive.getvalue()


def needed(entry: str, engine: Path = ENGINE) -> list[str]:
    """Return the engine's files that one of them imports, with those that these import, and itself; sorted.

    :raises ValueError: When one of them imports something of Ansible.
    """
    found: set[str] = set()
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _imports(engine / f"{name}.py")
    return sorted(found)


def _imports(path: Path) -> list[str]:
    own = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module is not None:
            own.append(node.module)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if any(name.split(".")[0].startswith("ansible") for name in names):
                raise ValueError(f"{path.name} imports {', '.join(names)}, expected nothing of Ansible")
    return own

"""The Python interpreters of this machine."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

# What an interpreter says of itself; it must be able to make a virtual environment.
_PROBE = "import ensurepip, os, sys, venv; print(*sys.version_info[:2], os.path.realpath(sys.executable))"


def _directories() -> list[Path]:
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT", home / ".pyenv"))
    data = Path(os.environ.get("XDG_DATA_HOME", home / ".local/share"))
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", data / "uv/python"))
    return [
        *map(Path, os.environ["PATH"].split(os.pathsep)),
        Path("/usr/bin"),
        Path("/usr/local/bin"),
        *pyenv.glob("versions/*/bin"),
        *uv.glob("*/bin"),
        *Path("/opt").glob("*/bin"),
        *Path("/opt/python").glob("*/bin"),
    ]


def find_pythons() -> dict[tuple[int, int], Path]:
    """Return a working interpreter for each version 3.X, oldest first, from PATH and then from well-known places."""
    found: dict[tuple[int, int], Path] = {}
    for directory in _directories():
        # sorted() of what is no directory, or may not be read, is empty.
        for candidate in sorted(directory.glob("python3.*")):
            if not re.fullmatch(r"python3\.\d+", candidate.name):
                continue
            try:
                probe = subprocess.run([candidate, "-c", _PROBE], capture_output=True, text=True, check=True)
            except (OSError, subprocess.CalledProcessError):
                continue
            major, minor, path = probe.stdout.split(maxsplit=2)
            found.setdefault((int(major), int(minor)), Path(path.strip()))
    return dict(sorted(found.items()))

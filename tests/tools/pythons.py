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
    path = [Path(name) for name in os.environ["PATH"].split(os.pathsep)]
    return [
        *path,
        *(python for shims in path if shims.name == "shims" for python in shims.parent.glob("versions/*/bin")),
        Path("/usr/bin"),
        Path("/usr/local/bin"),
        *pyenv.glob("versions/*/bin"),
        *uv.glob("*/bin"),
        *Path("/opt").glob("*/bin"),
        *Path("/opt/python").glob("*/bin"),
    ]


def _probe(candidate: Path) -> tuple[tuple[int, int], Path] | None:
    """Return an interpreter's version and its real path, or None when it does not run."""
    try:
        probe = subprocess.run([candidate, "-c", _PROBE], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    major, minor, path = probe.stdout.split(maxsplit=2)
    return (int(major), int(minor)), Path(path.strip())


def _interpreters(directory: Path) -> list[Path]:
    # sorted() of what is no directory, or may not be read, is empty.
    return [path for path in sorted(directory.glob("python3.*")) if re.fullmatch(r"python3\.\d+", path.name)]


def find_pythons() -> dict[tuple[int, int], Path]:
    """Return a working interpreter for each version 3.X, oldest first, from PATH and then from well-known places."""
    found: dict[tuple[int, int], Path] = {}
    for directory in _directories():
        for candidate in _interpreters(directory):
            python = _probe(candidate)
            if python is not None:
                found.setdefault(*python)
    return dict(sorted(found.items()))


def sound_path() -> list[str]:
    """Return the directories of PATH without those that have an interpreter that does not run.

    A version manager's shims for versions that are not selected are such: whoever finds one takes it for a Python.
    """
    directories = os.environ["PATH"].split(os.pathsep)
    return [name for name in directories if all(_probe(path) for path in _interpreters(Path(name)))]

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Small wheels, valid in every respect, and the line by which a lock names them."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import zipfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class Wheel:
    """A wheel that any Python takes. ``files`` are its files' contents by path; a program NAME prints its version."""

    name: str
    version: str
    files: dict[str, str] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    yanked: bool = False
    tag: str = "py3-none-any"

    @property
    def filename(self) -> str:
        return f"{self.name}-{self.version}-{self.tag}.whl"

    @cached_property
    def content(self) -> bytes:
        files = self.files or {f"{self.name}.py": f'version = "{self.version}"\ndef main():\n    print(version)\n'}
        info = f"{self.name}-{self.version}.dist-info"
        requires = "".join(f"Requires-Dist: {requirement}\n" for requirement in self.requires)
        entries = {
            **files,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {self.name}\nVersion: {self.version}\n{requires}",
            f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {self.tag}\n",
            f"{info}/entry_points.txt": f"[console_scripts]\n{self.name} = {self.name}:main\n",
        }
        record = "".join(f"{path},sha256={_digest(text)},{len(text.encode())}\n" for path, text in entries.items())
        entries[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, text in entries.items():
                archive.writestr(zipfile.ZipInfo(path), text)
        return stream.getvalue()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pin(self) -> str:
        """The line of a lock."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}\n"

    def write(self, directory: Path) -> Path:
        """Write it into a directory."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / self.filename
        path.write_bytes(self.content)
        return path


@dataclass(frozen=True)
class SourceDistribution(Wheel):
    """A package that has to be built, by a program of its own that fails."""

    @property
    def filename(self) -> str:
        return f"{self.name}-{self.version}.tar.gz"

    @cached_property
    def content(self) -> bytes:
        root = f"{self.name}-{self.version}"
        metadata = f"Metadata-Version: 2.1\nName: {self.name}\nVersion: {self.version}\n"
        project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        backend = 'def build_wheel(*arguments):\n    raise RuntimeError("no compiler here")\n'
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as archive:
            for path, text in (("PKG-INFO", metadata), ("pyproject.toml", project), ("backend.py", backend)):
                info = tarfile.TarInfo(f"{root}/{path}")
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text.encode()))
        return stream.getvalue()


def torch(version: str, cuda: str | None, available: bool = False) -> Wheel:
    """Return what an environment's tests ask of torch, and nothing else of it."""
    return Wheel(
        "torch",
        version,
        {
            "torch/__init__.py": "from . import cuda, version\n",
            "torch/version.py": f"__version__ = {version!r}\ncuda: 'str | None' = {cuda!r}\n",
            "torch/cuda.py": f"def is_available():\n    return {available}\n",
        },
    )


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()

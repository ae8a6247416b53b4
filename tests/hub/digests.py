"""The digests that a Hub publishes of a file: git's object id, and the SHA-256 of Git LFS."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path


def git_object_id(kind: str, content: bytes) -> str:
    """Return the SHA-1 under which git keeps ``content`` as an object of that kind (blob, tree, commit)."""
    return hashlib.sha1(b"%s %d\0%s" % (kind.encode(), len(content), content), usedforsecurity=False).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    """Return the small text file that git keeps in place of a file that lies in Git LFS."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


class DigestCache:
    """Digests of files by path, size, modification time and inode, so that each file is hashed once.

    With ``path`` the cache is kept in that file, and a restart over GiB of models takes no time.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[str, str] = {}
        if path is not None and path.exists():
            self._known = json.loads(path.read_text(encoding="utf-8"))

    def sha256(self, file: Path) -> str:
        """Return the SHA-256 of a file."""
        return self._digest("sha256", file)

    def git_blob(self, file: Path) -> str:
        """Return the id that git gives the content of a file. The file is read into memory."""
        return self._digest("git", file)

    def save(self) -> None:
        """Write the cache to its file, if it has one."""
        if self._path is None:
            return
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(self._known, indent=0, sort_keys=True), encoding="utf-8")
        temporary.replace(self._path)

    def _digest(self, algorithm: str, file: Path) -> str:
        status = file.stat()
        key = f"{algorithm}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{file.resolve()}"
        if key not in self._known:
            if algorithm == "git":
                self._known[key] = git_object_id("blob", file.read_bytes())
            else:
                self._known[key] = _sha256(file)
        return self._known[key]


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1024 * 1024):
            digest.update(chunk)
    return digest.hexdigest()

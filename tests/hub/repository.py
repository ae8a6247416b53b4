"""Model repositories made from plain directories, with git's commits, trees and refs."""

from __future__ import annotations

import datetime
import fnmatch
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .digests import DigestCache, git_object_id, lfs_pointer

DEFAULT_LFS = ("*.safetensors", "*.gguf", "*.bin", "*.onnx", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.model", "*.pkl")

# The Hub takes no larger file into git itself.
LARGEST_GIT_FILE = 10 * 1024 * 1024

# Commit ids depend on the date, so the first commit of every repository has this one.
FIRST_COMMIT_DATE = datetime.datetime.fromisoformat("2026-01-01T00:00:00+00:00")


@dataclass(frozen=True)
class Lfs:
    """What git knows of a file that lies in Git LFS."""

    sha256: str
    size: int
    pointer_size: int


@dataclass(frozen=True)
class File:
    """A file of a commit. ``oid`` is git's blob id, for a file in LFS that of its pointer."""

    path: str
    size: int
    oid: str
    source: Path | bytes
    lfs: Lfs | None = None


@dataclass(frozen=True)
class Commit:
    """An immutable state of a repository."""

    id: str
    tree: str
    title: str
    date: datetime.datetime
    files: Mapping[str, File]
    directories: Mapping[str, str]
    changed_by: Mapping[str, Commit] = field(repr=False)

    def last_change(self, path: str) -> Commit:
        """Return the commit that gave a file or a directory the content it has in this one."""
        return self.changed_by.get(path, self)


class Repository:
    """A model repository: commits, refs, who may read it, and what the Hub's scanners found.

    Every commit's directory belongs to that commit for good: to change a model, make another directory.
    """

    def __init__(
        self,
        repo_id: str,
        *,
        lfs: Collection[str] = DEFAULT_LFS,
        gated: bool = False,
        private: bool = False,
        readers: Collection[str] | None = None,
        digests: DigestCache | None = None,
    ) -> None:
        self.id = repo_id
        self.gated = gated
        self.private = private
        self.readers = readers
        self.refs: dict[str, str] = {}
        self.commits: dict[str, Commit] = {}
        self.security: dict[str, str] = {}
        self._lfs = tuple(lfs)
        self._digests = digests or DigestCache()

    def add_commit(self, directory: Path | str, revision: str = "main", title: str = "Upload model") -> Commit:
        """Commit the state of a directory to a branch or to a ref such as ``refs/pr/1``, and return the commit.

        A state that the branch has already gives no new commit.
        """
        ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
        # A pull request or a new branch starts where main is.
        parent = self.commits.get(self.refs.get(ref) or self.refs.get("refs/heads/main", ""))
        files = {file.path: file for file in self._read(Path(directory))}
        tree, directories = git_tree(files.values())
        if parent is None or parent.tree != tree:
            parent = _commit(tree, files, directories, parent, title)
            self.commits[parent.id] = parent
        self.refs[ref] = parent.id
        self._digests.save()
        return parent

    def add_tag(self, name: str, commit: Commit) -> None:
        """Name a commit by a tag."""
        self.refs[f"refs/tags/{name}"] = commit.id

    def set_security(self, path: str, status: str) -> None:
        """Set what the Hub's scanners say of a file: ``safe``, ``unsafe``, ``suspicious`` or ``queued``."""
        self.security[path] = status

    def resolve(self, revision: str) -> Commit | None:
        """Return the commit that a branch, a tag, a full ref or a commit id names."""
        for name in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if name in self.refs:
                return self.commits[self.refs[name]]
        return self.commits.get(revision)

    def _read(self, directory: Path) -> Iterator[File]:
        for source in sorted(directory.rglob("*")):
            path = source.relative_to(directory).as_posix()
            if not source.is_file() or path.startswith(".git/"):
                continue
            size = source.stat().st_size
            if size > LARGEST_GIT_FILE or any(fnmatch.fnmatchcase(path, pattern) for pattern in self._lfs):
                sha256 = self._digests.sha256(source)
                pointer = lfs_pointer(sha256, size)
                yield File(path, size, git_object_id("blob", pointer), source, Lfs(sha256, size, len(pointer)))
            else:
                yield File(path, size, self._digests.git_blob(source), source)


def git_tree(files: Iterable[File]) -> tuple[str, dict[str, str]]:
    """Return git's id of the tree that holds the files, and the ids of the directories below it by path."""
    contents: dict[str, list[tuple[str, bytes]]] = {"": []}
    for file in files:
        _add_parents(contents, file.path)
        parent, _separator, name = file.path.rpartition("/")
        contents[parent].append((name, b"100644 %s\0%s" % (name.encode(), bytes.fromhex(file.oid))))

    ids: dict[str, str] = {}
    # The deepest first: a directory's id is made of those of its own directories.
    for path in sorted(contents, key=lambda path: path.count("/") if path else -1, reverse=True):
        # git sorts a directory as if its name ended in a slash.
        ids[path] = git_object_id("tree", b"".join(entry for _name, entry in sorted(contents[path])))
        if path:
            parent, _separator, name = path.rpartition("/")
            contents[parent].append((f"{name}/", b"40000 %s\0%s" % (name.encode(), bytes.fromhex(ids[path]))))
    return ids.pop(""), dict(sorted(ids.items()))


def _add_parents(contents: dict[str, list[tuple[str, bytes]]], path: str) -> None:
    while "/" in path:
        path = path.rpartition("/")[0]
        contents.setdefault(path, [])


def _commit(
    tree: str, files: dict[str, File], directories: dict[str, str], parent: Commit | None, title: str
) -> Commit:
    date = FIRST_COMMIT_DATE if parent is None else parent.date + datetime.timedelta(hours=1)
    signature = f"Hub <hub@localhost> {int(date.timestamp())} +0000"
    lines = [f"tree {tree}", *([f"parent {parent.id}"] if parent else [])]
    lines += [f"author {signature}", f"committer {signature}", "", title, ""]
    changed_by: dict[str, Commit] = {}
    if parent is not None:
        before = {**parent.directories, **{file.path: file.oid for file in parent.files.values()}}
        now = {**directories, **{file.path: file.oid for file in files.values()}}
        changed_by = {path: parent.last_change(path) for path in now if before.get(path) == now[path]}
    return Commit(git_object_id("commit", "\n".join(lines).encode()), tree, title, date, files, directories, changed_by)

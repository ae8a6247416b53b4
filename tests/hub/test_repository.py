"""Repositories are what git would make of the same files. The judge is git itself."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.hub.digests import DigestCache
from tests.hub.repository import Commit, Repository

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def write(directory: Path, files: dict[str, str]) -> Path:
    for path, content in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(content, encoding="utf-8")
    return directory


def git(directory: Path, *arguments: str, date: str = "0 +0000") -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory), "GIT_CONFIG_NOSYSTEM": "1"}
    for who in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{who}_NAME": "Hub", f"GIT_{who}_EMAIL": "hub@localhost", f"GIT_{who}_DATE": date}
    command = ["git", "-c", "core.autocrlf=false", *arguments]
    return subprocess.run(
        command, cwd=directory, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


@needs_git
def test_ids_are_those_of_git(tmp_path: Path) -> None:
    # Names that git sorts in an order of its own: a directory as if it ended in a slash.
    names = ["a.txt", "a/b/c.txt", "a/b.txt", "a-b/x.txt", "a0.txt", "ä.txt", "model.safetensors", "sub/model.bin"]
    files = {name: f"content of {name}\n" for name in names}
    repository = Repository("acme/tiny")
    first = repository.add_commit(write(tmp_path / "first", files), title="First")
    second = repository.add_commit(write(tmp_path / "second", {**files, "a/b.txt": "changed\n"}), title="Second")

    checkout = write(tmp_path / "checkout", files)
    for name in ("model.safetensors", "sub/model.bin"):
        digest = hashlib.sha256(files[name].encode()).hexdigest()
        size = len(files[name])
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n"
        (checkout / name).write_text(pointer, encoding="utf-8")
        lfs = first.files[name].lfs
        assert lfs is not None
        assert (lfs.sha256, lfs.size, lfs.pointer_size) == (digest, size, len(pointer))
    git(checkout, "init", "--quiet")
    for commit, title in ((first, "First"), (second, "Second")):
        git(checkout, "add", ".")
        git(checkout, "commit", "--quiet", "-m", title, date=f"{int(commit.date.timestamp())} +0000")
        assert git(checkout, "rev-parse", "HEAD", "HEAD^{tree}").split() == [commit.id, commit.tree]
        listing = git(checkout, "-c", "core.quotePath=false", "ls-tree", "-r", "-t", "HEAD").splitlines()
        expected = dict(line.split(maxsplit=2)[2].split("\t")[::-1] for line in listing)
        assert expected == {**commit.directories, **{path: file.oid for path, file in commit.files.items()}}
        write(checkout, {"a/b.txt": "changed\n"})


def test_commits_are_the_same_each_time(tmp_path: Path) -> None:
    directory = write(tmp_path / "one", {"config.json": "{}"})
    assert Repository("acme/one").add_commit(directory).id == Repository("acme/two").add_commit(directory).id


def test_a_state_that_a_branch_has_gives_no_commit(tmp_path: Path) -> None:
    repository = Repository("acme/tiny")
    first = repository.add_commit(write(tmp_path / "one", {"config.json": "{}"}))
    assert repository.add_commit(write(tmp_path / "same", {"config.json": "{}"})) is first
    assert len(repository.commits) == 1


def test_last_changes(tmp_path: Path) -> None:
    repository = Repository("acme/tiny")
    old = {"kept.txt": "1", "changed.txt": "1", "a/kept.txt": "1", "b/changed.txt": "1"}
    first = repository.add_commit(write(tmp_path / "one", old))
    second = repository.add_commit(write(tmp_path / "two", {**old, "changed.txt": "2", "b/changed.txt": "2"}))
    third = repository.add_commit(
        write(tmp_path / "three", {**old, "changed.txt": "2", "b/changed.txt": "2", "new.txt": "3"})
    )

    def last_changes(commit: Commit) -> dict[str, Commit]:
        return {path: commit.last_change(path) for path in (*commit.files, *commit.directories)}

    assert last_changes(third) == {
        "kept.txt": first,
        "a/kept.txt": first,
        "a": first,
        "changed.txt": second,
        "b/changed.txt": second,
        "b": second,
        "new.txt": third,
    }


def test_revisions(tmp_path: Path) -> None:
    repository = Repository("acme/tiny")
    main = repository.add_commit(write(tmp_path / "one", {"config.json": "1"}))
    request = repository.add_commit(write(tmp_path / "two", {"config.json": "2"}), "refs/pr/1")
    repository.add_tag("v1", main)
    assert repository.resolve("main") is repository.resolve("refs/heads/main") is main
    assert repository.resolve("v1") is repository.resolve("refs/tags/v1") is repository.resolve(main.id) is main
    assert repository.resolve("refs/pr/1") is request
    assert repository.resolve("pr/1") is repository.resolve(main.id[:7]) is None


def test_what_goes_into_lfs(tmp_path: Path) -> None:
    write(tmp_path, {"model.safetensors": "x", "notes.md": "x", "config.json": "{}"})
    with (tmp_path / "vocab.txt").open("wb") as stream:
        stream.truncate(10 * 1024 * 1024 + 1)
    commit = Repository("acme/tiny").add_commit(tmp_path)
    assert {path for path, file in commit.files.items() if file.lfs} == {"model.safetensors", "vocab.txt"}
    commit = Repository("acme/tiny", lfs=["*.md"]).add_commit(tmp_path)
    assert {path for path, file in commit.files.items() if file.lfs} == {"notes.md", "vocab.txt"}


def test_digests_are_kept(tmp_path: Path) -> None:
    file = write(tmp_path, {"model.bin": "right"}) / "model.bin"
    kept = tmp_path / "digests.json"
    cache = DigestCache(kept)
    right = cache.sha256(file)
    assert right == hashlib.sha256(b"right").hexdigest()
    cache.save()

    # A digest that is wrong on purpose comes back: the file was not read again.
    kept.write_text(json.dumps(dict.fromkeys(json.loads(kept.read_text(encoding="utf-8")), "0" * 64)))
    assert DigestCache(kept).sha256(file) == "0" * 64
    os.utime(file, ns=(0, 0))
    assert DigestCache(kept).sha256(file) == right

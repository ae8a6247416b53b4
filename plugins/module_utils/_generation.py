# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Generations: numbered sets of models as trees of hard links to blobs, and the link that says which one is served."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ._derived import Derived
from ._directory import Directory
from ._errors import InvalidInput, StoreError
from ._lockfile import File, Model
from ._manifest import MANIFEST, Manifest
from ._store import Store

CURRENT = "current"

_GENERATIONS = "generations"
_STAGING = ".new-"
_RELINK = f"{_STAGING}link"
_WORKPLACE = f"{_STAGING}work"
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_CURRENT_TARGET = re.compile(rf"{_GENERATIONS}/([1-9][0-9]{{0,8}})")


class Generations:
    """The generations of one store.

    :param store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._root = store.root

    @contextlib.contextmanager
    def directory(self, create: bool = False) -> Iterator[Directory]:
        """Open the directory that holds all generations.

        :raises FileNotFoundError: When it does not exist and ``create`` is not set.
        """
        with self._root.subdirectory(_GENERATIONS, create) as directory:
            yield directory

    def path(self, number: int) -> str:
        """Return where a generation lies."""
        return os.path.join(self._store.path, _GENERATIONS, str(number))

    def numbers(self) -> list[int]:
        """Return the numbers of all generations, ascending."""
        try:
            with self.directory() as directory:
                return sorted(int(name) for name in directory.names() if _NUMBER.fullmatch(name))
        except FileNotFoundError:
            return []

    def manifest(self, number: int) -> Manifest:
        """Return what a generation holds.

        :raises InvalidInput: When there is no such generation, or its manifest is damaged.
        """
        try:
            with self.directory() as directory, directory.subdirectory(str(number)) as tree:
                return Manifest.load(tree.read(MANIFEST), number)
        except FileNotFoundError:
            known = ", ".join(map(str, self.numbers())) or "none"
            raise InvalidInput(f"generation {number} is not in {self._store.path}; there are: {known}") from None

    def manifests(self) -> dict[int, Manifest]:
        """Return all manifests that can be read, by number."""
        manifests = {}
        for number in self.numbers():
            with contextlib.suppress(InvalidInput):
                manifests[number] = self.manifest(number)
        return manifests

    def current(self) -> int | None:
        """Return the number of the generation that is served, or None.

        :raises StoreError: When ``current`` is not the link that we made.
        """
        status = self._root.stat(CURRENT)
        if status is None:
            return None
        if stat.S_ISLNK(status.st_mode):
            match = _CURRENT_TARGET.fullmatch(os.readlink(CURRENT, dir_fd=self._root.descriptor))
            if match:
                return int(match.group(1))
        raise StoreError(
            f"{self._root.join(CURRENT)} is not a link to one of the store's generations; "
            "someone replaced it: remove it and run again"
        )

    def served_models(self) -> tuple[Model, ...]:
        """Return the models that are served; none when that cannot be told."""
        current = self.current()
        try:
            return () if current is None else self.manifest(current).models
        except InvalidInput:
            return ()

    def history(self) -> list[int]:
        """Return the generations that were served one after another, the current one first.

        What was rolled back from is not among them. One that is gone, or whose manifest is damaged, is passed over.
        """
        manifests = self.manifests()
        served = [number for number, manifest in manifests.items() if manifest.served]
        current = self.current()
        history = [] if current is None else [current]
        bound = max(served, default=None) if current is None else current - 1
        while True:
            if history and history[-1] in manifests:
                bound = manifests[history[-1]].previous
            earlier = [number for number in served if bound is not None and number <= bound]
            if not earlier:
                return history
            history.append(max(earlier))

    def previous(self) -> int:
        """Return the number of the generation that was served before the current one.

        :raises InvalidInput: When there is none.
        """
        earlier = [number for number in self.history() if number != self.current()]
        if not earlier:
            raise InvalidInput(f"{self._store.path} has no earlier generation that was served; nothing to go back to")
        return earlier[0]

    def build(self, models: tuple[Model, ...], derived: tuple[Derived, ...] = ()) -> int:
        """Make a generation of blobs that are all in the store, and return its number.

        :param derived: The files that the host made of the models.

        It appears under its number as a whole, or not at all.
        """
        with self.directory(create=True) as directory:
            self.clean()
            number = max([0, *self.numbers(), self.current() or 0]) + 1
            manifest = Manifest(number, models, derived=derived)
            name = f"{_STAGING}{number}"
            try:
                with directory.subdirectory(name, create=True) as tree:
                    for model in models:
                        with tree.subdirectory(model.name, create=True) as model_tree:
                            self._link_files((*model.files, *manifest.derived_files(model)), model_tree)
                    tree.write(MANIFEST, manifest.dump())
                directory.rename(name, str(number))
            except BaseException:
                self.clean()
                raise
        return number

    def leftovers(self) -> list[str]:
        """Return the names of what interrupted runs left half made or half removed."""
        try:
            with self.directory() as directory:
                return [name for name in directory.names() if name.startswith(_STAGING)]
        except FileNotFoundError:
            return []

    def clean(self) -> None:
        """Remove what interrupted runs left half made or half removed."""
        for name in self.leftovers():
            with self.directory() as directory:
                directory.remove(name)

    @contextlib.contextmanager
    def workplace(self) -> Iterator[Directory]:
        """Give an empty directory that nobody else can write to, and remove it in the end.

        What a kill leaves of it is removed like a generation that was half made.

        :raises StoreError: When someone put another one in its place.
        """
        self.clean()
        with self.directory() as generations:
            os.mkdir(_WORKPLACE, 0o700, dir_fd=generations.descriptor)
            try:
                with generations.subdirectory(_WORKPLACE) as directory:
                    status = os.fstat(directory.descriptor)
                    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
                        raise StoreError(f"{directory.path} was replaced by someone; look who writes to the store")
                    yield directory
            finally:
                self.clean()

    def _link_files(self, files: tuple[File, ...], tree: Directory) -> None:
        directories = [tree]
        parents: list[str] = []
        # In order of their directories, so that each is opened once and made durable when it is complete.
        for file in sorted(files, key=lambda file: file.path.split("/")[:-1]):
            *wanted, name = file.path.split("/")
            while parents != wanted[: len(parents)]:
                parents.pop()
                self._close(directories.pop())
            for part in wanted[len(parents) :]:
                parents.append(part)
                directories.append(directories[-1].subdirectory(part, create=True))
            self.link(file, directories[-1], name)
        while len(directories) > 1:
            self._close(directories.pop())
        tree.sync()

    @staticmethod
    def _close(directory: Directory) -> None:
        directory.sync()
        directory.close()

    def link(self, file: File, tree: Directory, name: str) -> None:
        """Link a blob into a generation's tree.

        :raises StoreError: When the filesystem cannot.
        """
        try:
            with self._store.blob_directory(file.sha256) as blobs:
                blobs.link(file.sha256, tree, name)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
                raise StoreError(
                    f"{self._store.path}: its filesystem refused a hard link ({error.strerror}); use one that has them"
                ) from None
            raise

    @contextlib.contextmanager
    def parent_of(self, number: int, model: Model, file: File, create: bool = False) -> Iterator[tuple[Directory, str]]:
        """Open the directory of a generation's file; give it with the file's name in it.

        :param create: Make missing directories, in the place of whatever else has their names.
        :raises FileNotFoundError: When one is missing and ``create`` is not set.
        """
        with contextlib.ExitStack() as opened:
            directory = opened.enter_context(self.directory())
            path = f"{number}/{model.name}/{file.path}".split("/")
            for parent in path[:-1]:
                status = directory.stat(parent)
                if create and status is not None and not stat.S_ISDIR(status.st_mode):
                    directory.remove(parent)
                directory = opened.enter_context(directory.subdirectory(parent, create))
            yield directory, path[-1]

    def relink(self, number: int, model: Model, file: File) -> None:
        """Put a file of a generation back as the hard link to its blob, whatever has taken its place."""
        with self.parent_of(number, model, file, create=True) as (directory, name):
            status = directory.stat(name)
            if status is not None and stat.S_ISDIR(status.st_mode):
                directory.remove(name)
            # Beside the generations, where no file of a model can have the name.
            with self.directory() as generations:
                generations.remove(_RELINK)
                self.link(file, generations, _RELINK)
                generations.rename(_RELINK, name, directory)

    def activate(self, number: int) -> None:
        """Serve a generation: one atomic switch for all its models.

        :raises InvalidInput: When there is no such generation, or its manifest is damaged.
        """
        manifest, current = self.manifest(number), self.current()
        follows = manifest.previous
        if current is not None and current < number:
            follows = current
        elif not manifest.served:  # staged before the current one, and passed over then
            follows = next((earlier for earlier in self.history() if earlier < number), None)
        if not manifest.served or manifest.previous != follows:
            self._write(replace(manifest, served=True, previous=follows))
        temporary = f".{CURRENT}.new"
        self._root.remove(temporary)
        os.symlink(f"{_GENERATIONS}/{number}", temporary, dir_fd=self._root.descriptor)
        if self._root.owner is not None:
            os.chown(temporary, *self._root.owner, dir_fd=self._root.descriptor, follow_symlinks=False)
        self._root.rename(temporary, CURRENT)

    def record_smoke(self, number: int, smoke: Mapping[str, Any]) -> None:
        """Keep what came of a generation's smoke test in its manifest.

        :raises InvalidInput: When there is no such generation, or its manifest is damaged.
        """
        self._write(replace(self.manifest(number), smoke=smoke))

    def _write(self, manifest: Manifest) -> None:
        with self.directory() as directory, directory.subdirectory(str(manifest.generation)) as tree:
            tree.write(MANIFEST, manifest.dump())

    def remove(self, number: int) -> None:
        """Remove a generation that is not served. It disappears as a whole before its files do.

        :raises InvalidInput: When it is served.
        """
        if number == self.current():
            raise InvalidInput(f"generation {number} is being served; serve another one before you remove it")
        with self.directory() as directory:
            if directory.stat(str(number)) is not None:
                directory.rename(str(number), f"{_STAGING}{number}")
                self.clean()

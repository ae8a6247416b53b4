# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan of a conversion: from what is wanted and what there is to what has to be made. It does nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from ._convert_spec import MODELS, parse_convert, require_convertible
from ._derived import Derived, key_of
from ._errors import InvalidInput, PythonError
from ._lockfile import Model
from ._manifest import Manifest
from ._smoke_model import Subject, examine_model
from ._smoke_spec import parse_smoke

# What converts, and from which version on that was proven: names and options have changed with these numbers.
_PACKAGES = {"nncf": 3, "openvino": 2026, "tokenizers": 0, "torch": 2, "transformers": 5}


@dataclass(frozen=True)
class Wish:
    """A model that is to be converted.

    :ivar key: What everything that the conversion depends on comes to.
    """

    model: Model
    subject: Subject
    packages: Mapping[str, str]
    key: str

    @property
    def source_bytes(self) -> int:
        """The size of the weights that it has in its own format."""
        return sum(file.size for file in self.model.files if file.path in self.subject.weights)


@dataclass(frozen=True)
class ConversionPlan:
    """What to do.

    :ivar use: A generation that exists and has exactly what is wanted; without one, a new one is made.
    :ivar make: What has to be converted.
    :ivar take: What some generation has already, and is to be linked.
    """

    base: Manifest
    use: int | None
    make: tuple[Wish, ...]
    take: tuple[Derived, ...]


def converters(packages: Mapping[str, str], venv: str) -> dict[str, str]:
    """Return the versions of the packages that convert.

    :param packages: All that an environment has.
    :param venv: Where it is, for the message.
    :raises PythonError: When one is missing or too old.
    """
    missing = [name for name in _PACKAGES if name not in packages]
    if missing:
        raise PythonError(
            f"{venv} has no {', '.join(missing)}, which converting takes; give the host the groups core and openvino "
            "of python_venv, or name another environment"
        )
    for name, least in _PACKAGES.items():
        major = packages[name].split(".")[0]
        if not major.isdecimal() or int(major) < least:
            raise PythonError(
                f"{venv}: converting takes {name} {least} or later, found {packages[name]}; lock the environment anew"
            )
    return {name: packages[name] for name in sorted(_PACKAGES)}


def make_wishes(models: Iterable[Model], directory: str, packages: Mapping[str, str]) -> list[Wish]:
    """Return the models that are to be converted.

    :param directory: The directory of their generation.
    :raises InvalidInput: When one cannot be converted.
    """
    wishes = []
    for model in models:
        convert = parse_convert(f"{model.name}.convert", model.convert)
        if convert is None:
            continue
        paths = [file.path for file in model.files]
        require_convertible(model.name, paths)
        smoke = parse_smoke(f"{model.name}.smoke", model.smoke)
        subject = examine_model(model.name, f"{directory}/{model.name}", paths, smoke)
        if subject.task not in MODELS:
            raise InvalidInput(f"{model.name}: convert takes models for {', '.join(MODELS)}, found {subject.task}")
        wishes.append(Wish(model, subject, packages, key_of(model, subject.task, convert, packages)))
    return wishes


def make_plan(
    base: Manifest,
    wishes: Iterable[Wish],
    manifests: Mapping[int, Manifest],
    whole: Collection[int],
    damaged: Collection[str],
) -> ConversionPlan:
    """Decide what to do so that a generation has the models of another one, converted as wanted and not otherwise.

    :param manifests: Those of all generations, by number.
    :param whole: The generations that look as they must.
    :param damaged: Derived blobs that are known to be damaged.
    """
    wanted = {wish.model.name: wish for wish in wishes}
    keys = {name: wish.key for name, wish in wanted.items()}
    known: dict[str, Derived] = {}
    having = []
    for number in sorted(manifests):
        manifest = manifests[number]
        sound = [found for found in manifest.derived if not any(file.sha256 in damaged for file in found.files)]
        # Of several that were made of the same, the newest: an earlier one may be why it was made again.
        known.update((found.key, found) for found in sound)
        same = number >= base.generation and manifest.digest == base.digest
        if same and number in whole and len(sound) == len(manifest.derived):
            having += [number] if {found.model: found.key for found in sound} == keys else []
    if having:
        return ConversionPlan(base, base.generation if base.generation in having else having[-1], (), ())
    return ConversionPlan(
        base,
        None,
        tuple(wish for wish in wanted.values() if wish.key not in known),
        tuple(replace(known[key], model=name) for name, key in keys.items() if key in known),
    )

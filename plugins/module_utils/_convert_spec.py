# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a model may be converted to: what an entry of the catalog says under ``convert``, and what that takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ._errors import InvalidInput
from ._lockfile import check_mapping, require_keys, unexpected

# Below the model's directory, under the names that OpenVINO's other tools give and look for.
DIRECTORY = "openvino"
# The models that are made of one, by its task.
MODELS = {
    "embedding": ("openvino_model",),
    "rerank": ("openvino_model",),
    "text2text": ("openvino_encoder_model", "openvino_decoder_model"),
}
SUFFIXES = (".bin", ".xml")


@dataclass(frozen=True)
class Convert:
    """A format, and the bits that each weight has in it."""

    format: str = "openvino"
    bits: int = 8


def parse_convert(where: str, value: object) -> Convert | None:
    """Check what an entry of the catalog says about its conversion.

    :raises InvalidInput: With the place, what was expected and what was found.
    """
    if check_mapping(where, value) is None:
        return None
    document = require_keys(where, value, {"format", "bits"}, set())
    if document["format"] != "openvino":
        raise unexpected(f"{where}.format", "openvino", document["format"])
    if document["bits"] != 8 or isinstance(document["bits"], bool):
        raise unexpected(f"{where}.bits", "8", document["bits"])
    return Convert(document["format"], document["bits"])


def require_convertible(name: str, paths: Iterable[str]) -> None:
    """Refuse a model that cannot be converted.

    :param paths: Its files.
    :raises InvalidInput: When one is missing, or has the place of what would be made.
    """
    files = sorted(paths)
    weights = [path for path in files if path.endswith(".safetensors") and "/" not in path]
    missing = [path for path in ("config.json", "tokenizer.json") if path not in files]
    missing += [] if weights else ["*.safetensors"]
    if missing:
        raise InvalidInput(
            f"{name}: convert needs {', '.join(missing)}, found {', '.join(files)}; include it, or do not convert"
        )
    taken = [path for path in files if path.casefold().split("/")[0] == DIRECTORY]
    if taken:
        raise InvalidInput(
            f"{name}: convert makes files in {DIRECTORY}/, where the repository has {', '.join(taken)}; "
            f"exclude {DIRECTORY}/*"
        )

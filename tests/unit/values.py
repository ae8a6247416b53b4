# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Values for property tests: anything that JSON can bring, and documents that are almost right."""

from __future__ import annotations

import copy
from typing import Any, Callable, TypeVar

from hypothesis import strategies as st

from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput

T = TypeVar("T")

# Lone surrogates too: JSON brings them as escapes.
texts = st.text(st.characters(), max_size=20)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=10,
)


def result_or_refusal(call: Callable[..., T], *arguments: Any) -> T | InvalidInput:
    """Return what a call returns, or its refusal of the input; any other error is not caught."""
    try:
        return call(*arguments)
    except InvalidInput as error:
        return error


@st.composite
def with_changes(draw: st.DrawFn, document: Any) -> Any:
    """Return the document with some of its parts replaced, removed, repeated or renamed."""
    document = copy.deepcopy(document)
    for _change in range(draw(st.integers(0, 3))):
        containers = [node for node in _nodes(document) if isinstance(node, (dict, list)) and node]
        if not containers:
            break
        node = draw(st.sampled_from(containers))
        key = draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
        change = draw(st.sampled_from(["replace", "remove", "repeat", "rename"]))
        if change == "remove":
            del node[key]
        elif change == "repeat" and isinstance(node, list):
            node.append(copy.deepcopy(node[key]))
        elif change == "rename" and isinstance(node, dict):
            node[draw(texts)] = node.pop(key)
        else:
            node[key] = draw(json_values)
    return document


def _nodes(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value, *(node for item in inner for node in _nodes(item))]

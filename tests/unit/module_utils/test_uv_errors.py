# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What uv 0.13.8 said, and what the user is told. Integration tests hold this against the uv that is pinned."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.gpufleet.models.plugins.module_utils._uv_errors import explain

BEGIN = "Using Python 3.11.7 environment at: .new-079329ff63409ee4\nResolved 1 package in 5ms\n"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("error: Failed to install: x.whl\n  cause: No space left on device (os error 28)\n", "the disk is full"),
        ("error: Failed to read\n  cause: Hash mismatch for `a==1.0`\n\nExpected:\n  x\n", "a==1.0 is not the file"),
        (
            "error: Failed to download `a==2.0`\n  cause: Failed to fetch: https://host/files/a.whl\n"
            "  cause: HTTP status client error (404 Not Found) for url (https://host/files/a.whl)\n",
            "a==2.0 was refused by host: 404 Not Found; lock again",
        ),
        (
            "error: Failed to download `a==2.0`\n  cause: Failed to extract archive: a.whl\n  cause: Bad CRC (got 1)\n",
            "a==2.0 is a broken wheel, or was cut off: Bad CRC (got 1); try again",
        ),
        (
            "error: Failed to download `a==2.0`\n  cause: Failed to extract archive: a.whl\n"
            "  cause: Failed to download distribution due to network timeout. Try increasing UV_HTTP_TIMEOUT\n",
            "a==2.0 was not received as a whole: nothing came any more",
        ),
        (
            "error: Failed to download `a==2.0`\n  cause: error decoding response body\n"
            "  cause: Connection reset by peer (os error 104)\n",
            "a==2.0 was not received as a whole: Connection reset by peer (os error 104); try again",
        ),
        (
            "error: Failed to fetch: https://user:secret@host:81/simple/a/\n  cause: tcp connect error\n"
            "  cause: Connection refused (os error 111)\n",
            "host:81 cannot be reached, or does not answer as an index does: Connection refused (os error 111); look",
        ),
        (
            "error: Failed to build `a==1.0`\n  cause: The build backend returned an error\n\n[stderr]\nTraceback:\n"
            "  x\nRuntimeError: no compiler here\n\nhint: Build failures\n",
            "a==1.0 could not be built: RuntimeError: no compiler here; install",
        ),
        ("error: Failed to build `a==1.0`\n", "a==1.0 could not be built: its build said nothing"),
        (
            "error: No solution found when resolving dependencies\n  cause: Because a==1.0 has no wheels with a "
            "matching platform tag (e.g., `manylinux_2_36_x86_64`) and you require a==1.0, we can conclude that …\n",
            "a==1.0 has no wheel for this host, none with a matching platform tag such as manylinux_2_36_x86_64; lock",
        ),
        (
            "  cause: Because a==1.0 has no usable wheels and you\n",
            "a==1.0 has no wheel for this host and",
        ),
        ("  cause: Because a was not found in the cache and you\n", "a is not in find_links, and offline"),
        ("  cause: Because a was not found in the package registry and\n", "a was not found; look at its name"),
        ("  cause: Because there is no version of a==7.0 and\n", "a==7.0 was not found; look at its name and version"),
        (
            "Found 1 incompatibility\nThe package `a` requires `b>=3`, but it's not installed\n",
            "a requires b>=3, but it's not installed; lock again",
        ),
        ("error: No interpreter found for Python 3.99 in search path\n", "no interpreter found for Python 3.99 in"),
        (
            "error: Failed to inspect Python interpreter from provided path at `/bin/true`\n  cause: x\n",
            "/bin/true is no Python that works",
        ),
        (
            "error: No interpreter found for Python 3.98 in managed installations\n\nhint: uv embeds\n",
            "uv has no Python 3.98 to download; name another version",
        ),
        (
            "  cause: Hash mismatch for `cpython-3.12.1-linux-x86_64-gnu`\n",
            "cpython-3.12.1-linux-x86_64-gnu is not the Python that uv expects: its SHA-256 differs; look",
        ),
        (
            "cause: Because a{python_full_version < '3.11.3'} was not found in the package registry and you\n",
            "a was not found; look",
        ),
        (
            "error: No solution found when resolving dependencies\n  cause: Because a depends on b<1 and b>2, no.\n",
            "no versions fit together: Because a depends on b<1 and b>2, no; change",
        ),
        (
            "error: No solution found when resolving dependencies for split (markers: python_full_version >= '3.14')\n"
            "  cause: Because a==1.0 has no Linux-compatible wheels, no.\n\nhint: While\n",
            "no versions fit together where python_full_version >= '3.14': Because a==1.0 has "
            "no Linux-compatible wheels, no; change the requirements, or lock for fewer Pythons",
        ),
        (
            "error: something\n  new https://u:secret@host/\n",
            "uv ended with status 2: error: something new https://host/",
        ),
        ("", "uv ended with status 2: it said nothing"),
    ],
)
def test_explain(said: str, told: str) -> None:
    sentence = explain(f"{BEGIN if said else ''}{said}", 2)
    assert sentence.startswith(told)
    assert "secret" not in sentence


@given(st.text())
def test_any_text_is_one_sentence(text: str) -> None:
    for said in (text, f"error: Failed to download `a==1`\n{text}", f"Hash mismatch for `{text}`"):
        assert explain(said, 1)

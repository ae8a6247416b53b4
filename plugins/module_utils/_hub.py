# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Questions to the Hub about repositories: what a revision is, which files a commit has, what small files contain.

Runs on the control node and needs ``huggingface_hub`` 1.0 or later there. That library sets no deadline for its calls
and does not repeat those that fail, so both is done here.
"""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass
from typing import Callable, TypeVar

from ._blocks import check_cancelled
from ._deadline import within
from ._errors import Cancelled, HubError
from ._lockfile import check_path, check_paths_agree
from ._retry import may_pass, next_delay, server_delay
from ._source import Hub

try:
    import huggingface_hub
    from huggingface_hub import errors as hub_errors
    from huggingface_hub.utils import (
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    IMPORT_ERROR: Exception | None = None
except ImportError as error:
    IMPORT_ERROR = error

T = TypeVar("T")

_CALL_DEADLINE = 60.0  # seconds for one answer
_SMALL_FILE = 512 * 1024 * 1024  # bytes; the Hub keeps files beyond 10 MB in LFS


@dataclass(frozen=True)
class RemoteFile:
    """One file of a commit. ``sha256`` is known for files in LFS alone; ``git_sha1`` is that of the git blob.

    ``security`` is the verdict of the Hub's scan, such as ``safe`` or ``unsafe``, where there is one.
    """

    path: str
    size: int
    git_sha1: str
    sha256: str | None
    security: str | None


class HubClient:
    """Asks one Hub.

    :param timeout: Seconds for everything about one question, with its repetitions.
    :param cancelled: Ends a question early when it is set; :class:`Cancelled` is raised then.
    """

    def __init__(self, hub: Hub, timeout: float, cancelled: threading.Event) -> None:
        self._endpoint = hub.endpoint.rstrip("/")
        self._token = hub.token or False  # never a token that happens to lie in someone's home directory
        self._timeout = timeout
        self._cancelled = cancelled
        self._api = huggingface_hub.HfApi(endpoint=self._endpoint, token=self._token)

    def commit(self, repo_id: str, revision: str) -> str:
        """Return the commit that a branch, tag or reference points to.

        :raises HubError: Naming a missing or gated repository, or a missing revision, with what to do.
        """
        sha = self._ask(repo_id, revision, lambda: self._api.model_info(repo_id, revision=revision).sha)
        if not sha:
            raise HubError(f"{repo_id}: {self._endpoint} names no commit for revision {revision!r}")
        return sha

    def files(self, repo_id: str, commit: str) -> dict[str, RemoteFile]:
        """Return all files of a commit by path.

        :raises HubError: The same, and when a name in the answer could leave the model's directory.
        """
        tree = self._ask(
            repo_id,
            commit,
            lambda: list(self._api.list_repo_tree(repo_id, revision=commit, recursive=True, expand=True)),
        )
        where = f"{repo_id} at {commit}, as {self._endpoint} lists it"
        files = [
            RemoteFile(
                path=check_path(where, item.path),
                size=item.size if item.lfs is None else item.lfs.size,
                git_sha1=item.blob_id,
                sha256=None if item.lfs is None else item.lfs.sha256,
                security=None if item.security is None else item.security.status,
            )
            for item in tree
            if isinstance(item, huggingface_hub.hf_api.RepoFile)
        ]
        check_paths_agree(where, [file.path for file in files])
        return {file.path: file for file in files}

    def content_sha256(self, repo_id: str, commit: str, file: RemoteFile) -> str:
        """Fetch a small file and return its SHA-256.

        :raises HubError: Also when its size or git SHA-1 is not what the commit's tree says.
        """
        url = huggingface_hub.hf_hub_url(repo_id, file.path, revision=commit, endpoint=self._endpoint)
        return self._ask(repo_id, commit, lambda: self._hash(url, file))

    def _hash(self, url: str, file: RemoteFile) -> str:
        sha256, git_sha1 = hashlib.sha256(), hashlib.sha1(f"blob {file.size}\0".encode())
        size = 0
        headers = {**build_hf_headers(token=self._token), "Accept-Encoding": "identity"}
        with get_session().stream("GET", url, headers=headers, follow_redirects=True) as response:
            hf_raise_for_status(response)
            for chunk in response.iter_bytes():
                sha256.update(chunk)
                git_sha1.update(chunk)
                size += len(chunk)
                if size > min(file.size, _SMALL_FILE):
                    break
        if size != file.size or git_sha1.hexdigest() != file.git_sha1:
            raise _WrongContent(
                f"{file.path}: expected {file.size} bytes with git SHA-1 {file.git_sha1}, "
                f"found {size} bytes with {git_sha1.hexdigest()}"
            )
        return sha256.hexdigest()

    def _ask(self, repo_id: str, revision: str, call: Callable[[], T]) -> T:
        """Make a call, repeat it as the server says, and put every failure into one sentence."""
        end = time.monotonic() + self._timeout
        failures = 0
        while True:
            try:
                return within(min(_CALL_DEADLINE, end - time.monotonic()), call, self._cancelled)
            except hub_errors.GatedRepoError:
                raise HubError(
                    f"{repo_id} is gated: accept its terms at {self._endpoint}/{repo_id} and give the token of the "
                    "account that did"
                ) from None
            except hub_errors.RepositoryNotFoundError:
                raise HubError(
                    f"{repo_id} is missing from {self._endpoint}, or private: check the repo_id and the token's rights"
                ) from None
            except hub_errors.RevisionNotFoundError:
                raise HubError(
                    f"{repo_id} has no revision {revision!r}: correct it, or lock again with upgrade"
                ) from None
            except hub_errors.EntryNotFoundError as error:
                raise HubError(f"{repo_id} at {revision}: {_first_line(error)}") from None
            except hub_errors.HfHubHTTPError as error:
                status, headers = error.response.status_code, error.response.headers
                if not may_pass(status):
                    advice = "; check the token and its rights" if status in (401, 403) else ""
                    raise HubError(f"{repo_id}: {self._endpoint} answered {_first_line(error)}{advice}") from None
                reason = f"HTTP {status}"
                delay = server_delay(headers.get("Retry-After", ""), headers.get("RateLimit", ""))
            except Cancelled:
                raise
            except Exception as error:  # whatever a broken server makes of the client library
                reason, delay = _first_line(error), None
            failures += 1
            wait = next_delay(failures, delay)
            if time.monotonic() + wait >= end:
                raise HubError(
                    f"{repo_id}: no good answer from {self._endpoint} within {self._timeout:g} s; the last: {reason}"
                )
            self._cancelled.wait(wait)
            check_cancelled(self._cancelled)


class _WrongContent(Exception):
    pass


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__

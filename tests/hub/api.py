"""The Hub's own endpoints: what a model is, what its tree holds, and where its files are."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlencode

from .cdn import Cdn
from .faults import Faults
from .messages import Content, Request, Response, content_response, json_response, redirect_response
from .repository import Commit, File, Repository

_REPO = r"(?P<repo>(?:[^/]+/)?[^/]+)"
_REVISION = r"(?P<revision>refs/[^/]+/[^/]+|[^/]+)"
_INFO = re.compile(rf"/api/models/{_REPO}(?:/revision/{_REVISION})?")
_TREE = re.compile(rf"/api/models/{_REPO}/tree/{_REVISION}(?:/(?P<path>.+))?")
_RESOLVE = re.compile(rf"/{_REPO}/resolve/{_REVISION}/(?P<path>.+)")
_RESOLVE_CACHE = re.compile(rf"/api/resolve-cache/models/{_REPO}/{_REVISION}/(?P<path>.+)")

PAGE = 1000
EXPANDED_PAGE = 50


class HubApi:
    """Answers what clients ask of the Hub itself."""

    def __init__(
        self, repositories: Mapping[str, Repository], tokens: Collection[str], cdn: Cdn, faults: Faults
    ) -> None:
        self.endpoint = ""
        self.cdn_endpoint = ""
        self.resolve_cache = False
        self._repositories = repositories
        self._tokens = tokens
        self._cdn = cdn
        self._faults = faults

    def answer(self, request: Request) -> Response:
        """Return the response to a request."""
        if request.method not in ("GET", "HEAD"):
            return Response(405, {"Allow": "GET, HEAD"})
        routes = {
            _RESOLVE_CACHE: self._resolve_cached,
            _RESOLVE: self._resolve,
            _TREE: self._tree,
            _INFO: self._info,
        }
        for pattern, endpoint in routes.items():
            # A slash in a revision or a path may come encoded, so routes are told apart before decoding.
            if match := pattern.fullmatch(request.raw_path):
                parts = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
                return endpoint(request, parts)
        return _error(404, None, "Not Found")

    def _info(self, request: Request, parts: dict[str, str]) -> Response:
        found = self._find(request, parts["repo"], parts.get("revision", "main"))
        if isinstance(found, Response):
            return found
        repository, commit = found
        files = self._faults.edit_listing(request, commit.files.values())
        blobs = _flag(request, "blobs")
        info: dict[str, Any] = {
            "_id": commit.tree[:24],
            "id": repository.id,
            "modelId": repository.id,
            "author": repository.id.rpartition("/")[0] or None,
            "sha": commit.id,
            "lastModified": _date(commit),
            "private": repository.private,
            "gated": "manual" if repository.gated else False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": [_sibling(file, blobs) for file in files],
        }
        if _flag(request, "securityStatus"):
            info["securityRepoStatus"] = _repo_security(repository, files)
        return json_response(info)

    def _tree(self, request: Request, parts: dict[str, str]) -> Response:
        found = self._find(request, parts["repo"], parts["revision"])
        if isinstance(found, Response):
            return found
        repository, commit = found
        folder = parts.get("path", "").strip("/")
        if folder and folder not in commit.directories:
            return _error(404, "EntryNotFound", f"{quote(folder)} does not exist on {quote(parts['revision'])}")
        expand, recursive = _flag(request, "expand"), _flag(request, "recursive")
        entries = [_directory(path, oid, commit if expand else None) for path, oid in commit.directories.items()]
        for file in self._faults.edit_listing(request, commit.files.values()):
            entry = _file(file)
            if expand:
                entry["lastCommit"] = _last_commit(commit, file.path)
                entry["securityFileStatus"] = _file_security(repository.security.get(file.path, "safe"))
            entries.append(entry)
        entries = [entry for entry in entries if _is_below(entry["path"], folder, recursive)]
        return self._page(request, sorted(entries, key=lambda entry: entry["path"]), expand)

    def _page(self, request: Request, entries: list[dict[str, Any]], expand: bool) -> Response:
        size = EXPANDED_PAGE if expand else PAGE
        size = min(size, int(request.query.get("limit", size)))
        start = int(request.query.get("cursor", 0))
        headers = {}
        if start + size < len(entries):
            query = urlencode({**request.query, "cursor": start + size})
            headers["Link"] = f'<{self.endpoint}{request.raw_path}?{query}>; rel="next"'
        return json_response(entries[start : start + size], headers=headers)

    def _resolve(self, request: Request, parts: dict[str, str]) -> Response:
        found = self._find_file(request, parts)
        if isinstance(found, Response):
            return found
        repository, commit, file = found
        headers = {"X-Repo-Commit": commit.id}
        if file.lfs is not None:
            headers["X-Linked-Etag"] = f'"{file.lfs.sha256}"'
            headers["X-Linked-Size"] = str(file.lfs.size)
            return redirect_response(f"{self.cdn_endpoint}{self._cdn.link(repository.id, file)}", headers)
        if self.resolve_cache:
            path = f"/api/resolve-cache/models/{repository.id}/{commit.id}/{quote(file.path)}"
            query = urlencode({request.raw_path: "", "etag": f'"{file.oid}"'})
            return redirect_response(f"{path}?{query}", headers, 307)
        return _content(request, commit, file)

    def _resolve_cached(self, request: Request, parts: dict[str, str]) -> Response:
        found = self._find_file(request, parts)
        if isinstance(found, Response):
            return found
        _repository, commit, file = found
        return _content(request, commit, file)

    def _find_file(self, request: Request, parts: dict[str, str]) -> tuple[Repository, Commit, File] | Response:
        found = self._find(request, parts["repo"], parts["revision"], download=True)
        if isinstance(found, Response):
            return found
        repository, commit = found
        file = commit.files.get(parts["path"]) or self._faults.extra_file(parts["path"])
        if file is None:
            response = _error(404, "EntryNotFound", "Entry not found")
            response.headers["X-Repo-Commit"] = commit.id
            return response
        return repository, commit, file

    def _find(
        self, request: Request, repo_id: str, revision: str, *, download: bool = False
    ) -> tuple[Repository, Commit] | Response:
        """Return the repository and the commit, or the refusal that the Hub answers with."""
        if request.token is not None and request.token not in self._tokens:
            return _error(401, None, "Invalid credentials in Authorization header")
        repository = self._repositories.get(repo_id)
        may_read = (
            repository is not None
            and request.token is not None
            and (repository.readers is None or request.token in repository.readers)
        )
        if repository is None or (repository.private and not may_read):
            # To strangers, what is private does not exist.
            if request.token is None:
                return _error(401, "RepoNotFound", "Invalid username or password.")
            return _error(404, "RepoNotFound", "Repository not found")
        # The files of a gated repository are guarded, the list of them is not.
        if download and repository.gated and not may_read:
            restricted = f"Access to model {quote(repo_id)} is restricted"
            if request.token is None:
                return _error(401, "GatedRepo", f"{restricted}. You must have access to it and be authenticated.")
            return _error(403, "GatedRepo", f"{restricted} and you are not in the authorized list.")
        commit = repository.resolve(revision)
        if commit is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {quote(revision)}")
        return repository, commit


def _content(request: Request, commit: Commit, file: File) -> Response:
    content = Content(file.source, file.size, f'"{file.oid}"', "text/plain; charset=utf-8")
    response = content_response(content, request, ignore_range=request.method == "HEAD")
    response.headers["X-Repo-Commit"] = commit.id
    return response


def _error(status: int, code: str | None, message: str) -> Response:
    headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
    return json_response({"error": message}, status, headers)


def _flag(request: Request, name: str) -> bool:
    return request.query.get(name, "").lower() in ("true", "1")


def _is_below(path: str, folder: str, recursive: bool) -> bool:
    if folder and not path.startswith(f"{folder}/"):
        return False
    return recursive or "/" not in path[len(folder) :].strip("/")


def _date(commit: Commit) -> str:
    return commit.date.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _last_commit(commit: Commit, path: str) -> dict[str, str]:
    last = commit.last_change(path)
    return {"id": last.id, "title": last.title, "date": _date(last)}


def _directory(path: str, oid: str, commit: Commit | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "directory", "oid": oid, "size": 0, "path": path}
    if commit is not None:
        entry["lastCommit"] = _last_commit(commit, path)
    return entry


def _file(file: File) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "oid": file.oid, "size": file.size, "path": file.path}
    if file.lfs is not None:
        entry["lfs"] = {"oid": file.lfs.sha256, "size": file.lfs.size, "pointerSize": file.lfs.pointer_size}
    return entry


def _sibling(file: File, blobs: bool) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": file.path}
    if blobs:
        sibling |= {"blobId": file.oid, "size": file.size}
        if file.lfs is not None:
            lfs = {"sha256": file.lfs.sha256, "size": file.lfs.size, "pointerSize": file.lfs.pointer_size}
            sibling["lfs"] = lfs
    return sibling


def _file_security(status: str) -> dict[str, Any]:
    return {
        "status": status,
        "avScan": {"status": status, "version": "1.4.3/27700"},
        "pickleImportScan": {"status": status, "pickleImports": [], "version": "0.0.0"},
    }


def _repo_security(repository: Repository, files: list[File]) -> dict[str, Any]:
    levels = {file.path: repository.security.get(file.path, "safe") for file in files}
    return {
        "scansDone": "queued" not in levels.values(),
        "filesWithIssues": [
            {"path": path, "level": level} for path, level in levels.items() if level not in ("safe", "queued")
        ],
    }

"""The official client takes this Hub for the real one."""

from __future__ import annotations

import filecmp
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import HfApi, constants, errors, hf_hub_download, snapshot_download
from huggingface_hub.hf_api import RepoFile, RepoFolder
from huggingface_hub.utils._http import close_session

from tests.hub import Hub
from tests.hub.conftest import REPO, TOKEN
from tests.hub.faults import Status, rate_limited


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the client's state of each test to itself, and the client away from the network."""
    home = tmp_path / "hf"
    home.mkdir()
    # This list the client asks of huggingface.co itself, whatever the endpoint, unless it has a fresh copy.
    harnesses = home / "agent_harnesses.json"
    harnesses.write_text('{"standardEnvVars": [], "harnesses": {}}', encoding="utf-8")
    for name, value in {
        # The client reads its environment once, when it is imported.
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_XET_CACHE": str(home / "xet"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "AGENT_HARNESSES_PATH": str(harnesses),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    close_session()
    return home


@pytest.fixture
def api(hub: Hub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=TOKEN)


def assert_same_files(downloaded: Path, expected: Path) -> None:
    names = sorted(path.relative_to(expected).as_posix() for path in expected.rglob("*") if path.is_file())
    found = sorted(
        path.relative_to(downloaded).as_posix()
        for path in downloaded.rglob("*")
        if path.is_file() and ".cache" not in path.relative_to(downloaded).parts
    )
    assert found == names
    assert filecmp.cmpfiles(downloaded, expected, names, shallow=False) == (names, [], [])


def test_the_version_is_the_one_that_was_read() -> None:
    assert huggingface_hub.__version__ == "2.4.0"


@pytest.mark.parametrize("resolve_cache", [False, True])
def test_snapshot_into_the_cache(model: Path, resolve_cache: bool) -> None:
    with Hub(tokens=[TOKEN], resolve_cache=resolve_cache) as hub:
        commit = hub.add_repo(REPO, model, private=True).resolve("main")
        assert commit is not None
        path = Path(snapshot_download(REPO, endpoint=hub.endpoint, token=TOKEN))
        assert path.name == commit.id
        assert_same_files(path, model)
        assert hub.stats.requests("cdn", "GET") == len([file for file in commit.files.values() if file.lfs])
        assert not hub.stats.token_seen_at_cdn
        assert {exchange.status for exchange in hub.stats.exchanges()} <= {200, 302, 307}
        assert {exchange.request.token for exchange in hub.stats.exchanges("hub")} == {TOKEN}


def test_snapshot_into_a_directory(hub: Hub, model: Path, tmp_path: Path) -> None:
    snapshot_download(REPO, endpoint=hub.endpoint, token=False, local_dir=tmp_path / "here")
    assert_same_files(tmp_path / "here", model)
    assert hub.stats.bytes_sent("cdn", "GET", "*/tiny-Q4_0.gguf") == (model / "tiny-Q4_0.gguf").stat().st_size
    assert hub.stats.repeated_bytes() == 0


@pytest.mark.parametrize(
    "path", ["config.json", "tiny-Q4_0.gguf", "1_Pooling/empty.txt", "extra files/größe+100% #1.bin"]
)
def test_one_file(hub: Hub, model: Path, path: str) -> None:
    downloaded = hf_hub_download(REPO, path, endpoint=hub.endpoint, token=False)
    assert Path(downloaded).read_bytes() == (model / path).read_bytes()


def test_a_model_without_an_organisation(hub: Hub, model: Path) -> None:
    hub.add_repo("tiny", model)
    hub.repositories["tiny"].add_commit(model, "refs/pr/1")
    assert_same_files(Path(snapshot_download("tiny", endpoint=hub.endpoint, token=False)), model)
    assert_same_files(Path(snapshot_download("tiny", revision="refs/pr/1", endpoint=hub.endpoint, token=False)), model)


def test_the_tree(hub: Hub, api: HfApi, model: Path) -> None:
    entries = list(api.list_repo_tree(REPO, recursive=True))
    files = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    assert sorted(entry.path for entry in entries if isinstance(entry, RepoFolder)) == ["1_Pooling", "extra files"]
    assert {path: file.size for path, file in files.items()} == {
        path.relative_to(model).as_posix(): path.stat().st_size for path in model.rglob("*") if path.is_file()
    }
    assert files["config.json"].lfs is None
    assert files["config.json"].last_commit is None
    lfs = files["tiny-Q4_0.gguf"].lfs
    assert lfs is not None
    assert lfs.size == files["tiny-Q4_0.gguf"].size
    assert files["tiny-Q4_0.gguf"].xet_hash is None

    assert "1_Pooling/config.json" not in {entry.path for entry in api.list_repo_tree(REPO)}
    assert [entry.path for entry in api.list_repo_tree(REPO, "1_Pooling")] == [
        "1_Pooling/config.json",
        "1_Pooling/empty.txt",
    ]
    with pytest.raises(errors.RemoteEntryNotFoundError):
        list(api.list_repo_tree(REPO, "2_Pooling"))


def test_the_expanded_tree(hub: Hub, api: HfApi) -> None:
    hub.repositories[REPO].set_security("tiny-Q4_0.gguf", "unsafe")
    entries = list(api.list_repo_tree(REPO, recursive=True, expand=True))
    for entry in entries:
        assert entry.last_commit is not None
        assert entry.last_commit.oid == hub.repositories[REPO].refs["refs/heads/main"]
    security = {entry.path: entry.security for entry in entries if isinstance(entry, RepoFile)}
    assert security["tiny-Q4_0.gguf"] is not None
    assert (security["tiny-Q4_0.gguf"].safe, security["tiny-Q4_0.gguf"].status) == (False, "unsafe")
    assert security["config.json"] is not None
    assert security["config.json"].safe


@pytest.mark.parametrize(("expand", "files", "pages"), [(False, 1001, 2), (True, 120, 3)])
def test_the_tree_comes_in_pages(tmp_path: Path, expand: bool, files: int, pages: int) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    for number in range(files):
        (directory / f"{number:04}.txt").write_text(str(number), encoding="utf-8")
    with Hub() as hub:
        hub.add_repo(REPO, directory)
        api = HfApi(endpoint=hub.endpoint, token=False)
        entries = list(api.list_repo_tree(REPO, recursive=True, expand=expand))
        assert [entry.path for entry in entries] == [f"{number:04}.txt" for number in range(files)]
        assert hub.stats.requests(path="*/tree/main") == pages


def test_the_info(hub: Hub, api: HfApi, model: Path) -> None:
    info = api.model_info(REPO)
    assert info.id == REPO
    assert info.sha == hub.repositories[REPO].refs["refs/heads/main"]
    assert (info.private, info.gated) == (False, False)
    assert info.siblings is not None
    assert {sibling.size for sibling in info.siblings} == {None}
    assert info.security_repo_status is None


def test_the_info_with_blobs_and_scans(hub: Hub, api: HfApi, model: Path) -> None:
    repository = hub.repositories[REPO]
    info = api.model_info(REPO, files_metadata=True, securityStatus=True)
    assert info.security_repo_status == {"scansDone": True, "filesWithIssues": []}
    assert info.siblings is not None
    tree = {entry.path: entry for entry in api.list_repo_tree(REPO, recursive=True) if isinstance(entry, RepoFile)}
    for sibling in info.siblings:
        entry = tree[sibling.rfilename]
        assert (sibling.size, sibling.blob_id, sibling.lfs) == (entry.size, entry.blob_id, entry.lfs)

    repository.set_security("tiny-Q4_0.gguf", "suspicious")
    repository.set_security("config.json", "queued")
    info = api.model_info(REPO, revision="main", securityStatus=True)
    assert info.security_repo_status == {
        "scansDone": False,
        "filesWithIssues": [{"path": "tiny-Q4_0.gguf", "level": "suspicious"}],
    }


def test_branches_tags_pull_requests_and_commits(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    states = {}
    for state in ("one", "two", "three"):
        states[state] = tmp_path / state
        states[state].mkdir()
        (states[state] / "config.json").write_text(state, encoding="utf-8")
    repository = hub.add_repo("acme/history", states["one"])
    first = repository.resolve("main")
    assert first is not None
    repository.add_tag("v1.0", first)
    second = repository.add_commit(states["two"])
    repository.add_commit(states["three"], "refs/pr/1")
    repository.add_commit(states["one"], "feature/x")

    def content(revision: str | None) -> str:
        path = hf_hub_download("acme/history", "config.json", revision=revision, endpoint=hub.endpoint, token=False)
        return Path(path).read_text(encoding="utf-8")

    assert content(None) == content(second.id) == "two"
    assert content("v1.0") == content(first.id) == "one"
    assert content("refs/pr/1") == "three"
    assert content("feature/x") == "one"
    assert api.model_info("acme/history", revision="refs/pr/1").sha == repository.refs["refs/pr/1"]
    snapshot = snapshot_download("acme/history", revision="refs/pr/1", endpoint=hub.endpoint, token=False)
    assert (Path(snapshot) / "config.json").read_text(encoding="utf-8") == "three"


@pytest.mark.parametrize(
    ("repo_id", "path", "revision", "token", "exception", "status"),
    [
        ("acme/none", "config.json", "main", None, errors.RepositoryNotFoundError, 401),
        ("acme/none", "config.json", "main", TOKEN, errors.RepositoryNotFoundError, 404),
        ("acme/private", "config.json", "main", None, errors.RepositoryNotFoundError, 401),
        ("acme/private", "config.json", "main", "hf_other", errors.RepositoryNotFoundError, 404),
        ("acme/gated", "config.json", "main", None, errors.GatedRepoError, 401),
        ("acme/gated", "tiny-Q4_0.gguf", "main", "hf_other", errors.GatedRepoError, 403),
        (REPO, "config.json", "none", None, errors.RevisionNotFoundError, 404),
        (REPO, "config.json", "0" * 40, None, errors.RevisionNotFoundError, 404),
        (REPO, "none.json", "main", None, errors.RemoteEntryNotFoundError, 404),
    ],
)
def test_refusals(
    hub: Hub,
    model: Path,
    repo_id: str,
    path: str,
    revision: str,
    token: str | None,
    exception: type[errors.HfHubHTTPError],
    status: int,
) -> None:
    hub.tokens.add("hf_other")
    hub.add_repo("acme/private", model, private=True, readers=[TOKEN])
    hub.add_repo("acme/gated", model, gated=True, readers=[TOKEN])
    with pytest.raises(exception) as refusal:
        hf_hub_download(repo_id, path, revision=revision, endpoint=hub.endpoint, token=token or False)
    # GatedRepoError is a RepositoryNotFoundError: the class alone does not tell them apart.
    assert refusal.type is exception
    assert refusal.value.response.status_code == status


@pytest.mark.parametrize("kind", ["private", "gated"])
def test_who_may_read_reads(hub: Hub, model: Path, kind: str) -> None:
    hub.add_repo("acme/guarded", model, readers=[TOKEN], gated=kind == "gated", private=kind == "private")
    assert_same_files(Path(snapshot_download("acme/guarded", endpoint=hub.endpoint, token=TOKEN)), model)
    assert not hub.stats.token_seen_at_cdn


def test_a_gated_model_may_be_listed_by_anyone(hub: Hub, model: Path) -> None:
    hub.add_repo("acme/gated", model, gated=True)
    api = HfApi(endpoint=hub.endpoint, token=False)
    assert api.model_info("acme/gated").gated == "manual"
    assert list(api.list_repo_tree("acme/gated"))
    with pytest.raises(errors.GatedRepoError):
        snapshot_download("acme/gated", endpoint=hub.endpoint, token=False)


def test_a_token_that_is_not_valid(hub: Hub) -> None:
    with pytest.raises(errors.HfHubHTTPError, match="Invalid credentials in Authorization header") as refusal:
        hf_hub_download(REPO, "config.json", endpoint=hub.endpoint, token="hf_wrong")
    assert refusal.value.response.status_code == 401


def test_a_rate_limit_is_obeyed(hub: Hub, api: HfApi) -> None:
    with hub.fault(rate_limited(0, path="*/tree/*", times=1)) as fault:
        assert list(api.list_repo_tree(REPO))
    assert fault.applied == 1
    with hub.fault(rate_limited(55)), pytest.raises(errors.HfHubHTTPError, match=r"'api' rate limit.*\n.*55 seconds"):
        api.model_info(REPO)


def test_a_server_error_is_one(hub: Hub, api: HfApi) -> None:
    with hub.fault(Status(503, path="*/revision/*")), pytest.raises(errors.LocalEntryNotFoundError, match="503"):
        snapshot_download(REPO, endpoint=hub.endpoint, token=False)


def test_a_client_that_tries_ipv6_first(hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo

    def ipv6_first(host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        addresses: list[Any] = list(resolve(host, port, *args, **kwargs))
        if host == "localhost":
            ipv6 = (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("::1", port, 0, 0))
            return [ipv6, *(address for address in addresses if address[0] == socket.AF_INET)]
        return addresses

    monkeypatch.setattr(socket, "getaddrinfo", ipv6_first)
    assert_same_files(Path(snapshot_download(REPO, endpoint=hub.endpoint, token=False)), model)


def test_two_origins_for_newer_and_older_clients(hub: Hub) -> None:
    endpoint, cdn = httpx2.URL(hub.endpoint), httpx2.URL(hub.cdn_endpoint)
    assert endpoint.host != cdn.host
    assert (endpoint.scheme, endpoint.host, endpoint.port) != (cdn.scheme, cdn.host, cdn.port)


def run_hf(hub: Hub, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    environment.pop("HF_HUB_CACHE", None)
    command = [sys.executable, "-m", "huggingface_hub.cli.hf", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


def test_the_command_line(hub: Hub, home: Path, model: Path, tmp_path: Path) -> None:
    download = run_hf(hub, home, "download", REPO, "--token", TOKEN)
    assert download.returncode == 0, download.stderr
    (snapshot,) = home.glob("hub/models--acme--tiny/snapshots/*")
    assert_same_files(snapshot, model)
    assert not hub.stats.token_seen_at_cdn

    verify = run_hf(hub, home, "cache", "verify", REPO, "--fail-on-missing-files")
    assert verify.returncode == 0, verify.stderr

    # The checksums of the tree are the real ones: the client's own check finds a wrong byte.
    for name in ("config.json", "tiny-Q4_0.gguf"):
        blob = (snapshot / name).resolve()
        right = blob.read_bytes()
        blob.write_bytes(bytes([right[0] ^ 1]) + right[1:])
        verify = run_hf(hub, home, "cache", "verify", REPO)
        assert verify.returncode != 0
        assert name in verify.stdout + verify.stderr
        blob.write_bytes(right)

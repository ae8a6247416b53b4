# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What repositories offer: versions, dependencies, indexes, keys."""

from __future__ import annotations

import base64
import hashlib

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._driver_apt import parse_packages, read_apt
from ansible_collections.gpufleet.models.plugins.module_utils._driver_dnf import read_dnf
from ansible_collections.gpufleet.models.plugins.module_utils._driver_offers import (
    Catalogue,
    Dependency,
    Offer,
    compare_versions,
    satisfies,
    upstream_of,
)
from ansible_collections.gpufleet.models.plugins.module_utils._driver_packages import parse_dpkg
from ansible_collections.gpufleet.models.plugins.module_utils._errors import DriverError, HubError
from ansible_collections.gpufleet.models.plugins.module_utils._openpgp import fingerprints, require_fingerprint
from tests.unit import repositories
from tests.unit.repositories import Repository

URL = "https://example.org/repo"


# What `dpkg --compare-versions` says of each pair: the first is older.
@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("580.82.07-1", "580.95.05-1"),
        ("580.95.05-0ubuntu1", "580.95.05-1ubuntu1"),
        ("580.95.05-1", "580.95.05-1ubuntu1"),
        ("580.9-1", "580.10-1"),
        ("1.18.0~rc.1-1", "1.18.0-1"),
        ("999.0-1", "1:4.4.1-1"),
        ("3:580.82.07-1.el9", "3:580.95.05-1.el9"),
        ("1.0", "1.0-1"),
        ("1.0a", "1.0+b"),
        ("2.0~~a", "2.0~"),
    ],
)
def test_order_of_versions(older: str, newer: str) -> None:
    assert compare_versions(older, newer) < 0
    assert compare_versions(newer, older) > 0
    assert compare_versions(newer, newer) == 0


def test_equal_versions() -> None:
    assert compare_versions("0:1.0-0", "1.0") == 0
    assert compare_versions("1.01", "1.1") == 0


@pytest.mark.parametrize(
    ("version", "relation", "wanted", "met"),
    [
        ("1.2-1", "", "", True),
        ("1.2-1", "=", "1.2-1", True),
        ("1.2-1", "=", "1.2-2", False),
        ("1.2-1", ">=", "1.2-1", True),
        ("1.2-1", ">>", "1.2-1", False),
        ("1.2-1", "<<", "2", True),
        ("1.2-1", "<=", "1.1-1", False),
        ("3:580.95.05-1.el9", "=", "3:580.95.05", True),
        ("1.2-1", "?", "1.2-1", False),
    ],
)
def test_conditions(version: str, relation: str, wanted: str, met: bool) -> None:
    assert satisfies(version, Dependency("name", relation, wanted)) == met


@pytest.mark.parametrize(
    ("version", "upstream"),
    [
        ("580.95.05-1", "580.95.05"),
        ("580.95.05-0ubuntu1", "580.95.05"),
        ("3:580.95.05-1.el9", "580.95.05"),
        ("1:4.4.1-1", "4.4.1"),
        ("git123", ""),
    ],
)
def test_upstream(version: str, upstream: str) -> None:
    assert upstream_of(version) == upstream


def test_catalogue_has_the_newest_first() -> None:
    offers = [Offer("a", "1-1"), Offer("a", "1-2"), Offer("a", "2-1"), Offer("b", "1", provides=("virtual",))]
    catalogue = Catalogue(offers)
    assert [offer.version for offer in catalogue.of("a")] == ["2-1", "1-2", "1-1"]
    found = catalogue.at("a", "1")
    assert found is not None
    assert found.version == "1-2"
    assert catalogue.at("a", "3") is None
    assert catalogue.of("c") == []
    assert [offer.name for offer in catalogue.providing("virtual")] == ["b"]


def test_apt_index() -> None:
    files = repositories.apt_files(URL, repositories.debian(["580.95.05"]))
    offers = {offer.name: offer for offer in read_apt(URL + "/", Repository(files).fetch)}
    driver = offers["nvidia-driver-cuda"]
    assert driver.version == "580.95.05-1"
    assert driver.depends[1] == (
        Dependency("nvidia-kernel-dkms", "=", "580.95.05-1"),
        Dependency("nvidia-kernel-open-dkms", "=", "580.95.05-1"),
    )
    assert offers["libnvidia-ml1"].depends == ((Dependency("libc6", ">=", "2.28"),),)


def test_apt_index_without_compression() -> None:
    repository = Repository({f"{URL}/Packages": repositories.deb("a", "1").encode()})
    assert [offer.name for offer in read_apt(URL, repository.fetch)] == ["a"]
    assert repository.asked == [f"{URL}/Packages.gz", f"{URL}/Packages"]


def test_apt_details() -> None:
    text = "Package: a\nVersion: 1\nPre-Depends: b:any\nDepends: c (>= 2) | d, e\nProvides: f (= 1), g\n"
    (offer,) = parse_packages(f"{text}Description: x\n y: z\n\n\nGarbage\n")
    assert offer.depends == (
        (Dependency("b"),),
        (Dependency("c", ">=", "2"), Dependency("d")),
        (Dependency("e"),),
    )
    assert offer.provides == ("f", "g")


@pytest.mark.parametrize("content", [b"<html>login</html>", b"\x1f\x8b\x08cut off"])
def test_what_is_no_apt_index(content: bytes) -> None:
    with pytest.raises(DriverError, match=r"Packages\.gz: expected a package index"):
        read_apt(URL, Repository({f"{URL}/Packages.gz": content}).fetch)


def test_dnf_index() -> None:
    files = repositories.dnf_files(URL, ["580.95.05"], "9", ["580-open", "580-dkms"])
    offers, streams = read_dnf(URL, "x86_64", Repository(files).fetch)
    by_name = {offer.name: offer for offer in offers}
    assert by_name["nvidia-driver-cuda"].version == "3:580.95.05-1.el9"
    assert (Dependency("nvidia-kmod", "=", "3:580.95.05"),) in by_name["nvidia-driver-cuda"].depends
    assert "nvidia-kmod" in by_name["kmod-nvidia-open-dkms"].provides
    assert streams == ["580-open", "580-dkms"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html><p></html>", "repomd.xml: expected the index of a repository"),
        (b"<html/>", "found no list of packages"),
        (b'<repomd><data type="primary"><location href="p.gz"/></data></repomd>', "p.gz: expected a compressed index"),
    ],
)
def test_what_is_no_dnf_index(content: bytes, message: str) -> None:
    files = {f"{URL}/repodata/repomd.xml": content, f"{URL}/p.gz": b"not compressed"}
    with pytest.raises(DriverError, match=message):
        read_dnf(URL, "x86_64", Repository(files).fetch)


def test_missing_index() -> None:
    with pytest.raises(HubError, match="404"):
        read_dnf(URL, "x86_64", Repository({}).fetch)


def armored(*keys: bytes, tag: bytes = b"\x99") -> str:
    """Return a key file with these keys, each with a user's name behind it."""
    packets = b"".join(tag + len(key).to_bytes(2, "big") + key + b"\xb4\x04name" for key in keys)
    text = base64.encodebytes(packets).decode()
    return f"-----BEGIN PGP PUBLIC KEY BLOCK-----\nVersion: 1\n\n{text}=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n"


KEY = b"\x04" + bytes(range(200))
NAME = hashlib.sha1(b"\x99\x00\xc9" + KEY).hexdigest().upper()


# Base64 that ends, and goes on: one decoder stops there, another one does not.
_OTHER = base64.encodebytes(b"\x99\x00\x06\x04other").decode()
SMUGGLED = armored(b"\x04padded").replace("==\n=abcd\n", f"==\n{_OTHER}=abcd\n")


def test_fingerprint() -> None:
    assert fingerprints(armored(KEY), "key") == [NAME]
    new_format = armored(KEY).replace("Version: 1\n", "")
    assert fingerprints(new_format, "key") == [NAME]
    require_fingerprint(armored(KEY), NAME.lower(), "key")
    require_fingerprint(armored(KEY), " ".join(NAME[i : i + 4] for i in range(0, 40, 4)), "key")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (armored(b"\x04other"), "found [0-9A-F]{40}; nothing was changed"),
        (armored(KEY, b"\x04another one"), "found [0-9A-F]{40} and [0-9A-F]{40}"),
        (armored(), "one armored OpenPGP key and nothing else"),
        ("<html>", "one armored OpenPGP key and nothing else"),
        # What apt would read here is another key than the one in the second block, or one more.
        (armored(b"\x04other").replace("BLOCK-----\n", "BLOCK----- \n", 1) + armored(KEY), "and nothing else"),
        (armored(KEY) + armored(b"\x04other"), "and nothing else"),
        (SMUGGLED, "damaged"),
        (armored(KEY).replace("mAQ", "", 1)[:200] + "\n-----END PGP PUBLIC KEY BLOCK-----", "damaged"),
        (armored(b"\x03old"), "damaged"),
    ],
)
def test_wrong_keys(text: str, message: str) -> None:
    with pytest.raises(DriverError, match=message):
        require_fingerprint(text, NAME, "https://example.org/key.pub")


LISTING = """\
libc6\tamd64\t2.36-9\tinstalled\tlibgcc-s1, \t
libnvidia-ml1\tamd64\t580.95.05-1\tinstalled\t, libc6 (>= 2.28)\t
libnvidia-ml1\ti386\t580.95.05-1\tinstalled\t, \t
nvidia-driver-cuda\tamd64\t580.95.05-1\thalf-configured\t, libnvidia-ml1 (= 580.95.05-1)\t
old\tamd64\t1\tconfig-files\t, \t
mailer\tall\t1\tinstalled\t, \tmail-transport-agent
cron\tall\t1\tinstalled\t, mail-transport-agent | libc6\t
"""


def test_installed_packages() -> None:
    packages = parse_dpkg(LISTING, "amd64")
    assert packages.versions == {
        "libc6": "2.36-9",
        "libnvidia-ml1": "580.95.05-1",
        "libnvidia-ml1:i386": "580.95.05-1",
        "nvidia-driver-cuda": "",
        "mailer": "1",
        "cron": "1",
    }


@pytest.mark.parametrize(
    ("names", "unneeded"),
    [
        (["nvidia-driver-cuda", "libnvidia-ml1"], ["libnvidia-ml1", "nvidia-driver-cuda"]),
        (["libnvidia-ml1"], []),
        (["nvidia-driver-cuda", "libnvidia-ml1", "libc6"], ["libnvidia-ml1", "nvidia-driver-cuda"]),
        (["mailer"], []),
        (["mailer", "cron", "gone"], ["cron", "mailer"]),
    ],
    ids=str,
)
def test_what_others_need_stays(names: list[str], unneeded: list[str]) -> None:
    assert list(parse_dpkg(LISTING, "amd64").unneeded(names)) == unneeded

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The fingerprint of a public OpenPGP key (RFC 4880), so that a key can be checked where there is no gpg."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from ._errors import DriverError

_PUBLIC_KEY = 6
_VERSION_4 = 4


# Headers, an empty line, the packets in base64, and a checksum that starts with an equals sign.
_ARMOR = re.compile(
    r"\s*-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(?:[A-Za-z]+: [^\r\n]*\r?\n)*[ \t]*\r?\n"
    r"(?P<packets>(?:[A-Za-z0-9+/]+={0,2}\r?\n)+)(?:=[A-Za-z0-9+/]{4}\r?\n)?-----END PGP PUBLIC KEY BLOCK-----\s*"
)


def require_fingerprint(armored: str, fingerprint: str, where: str) -> None:
    """Require that a key file holds the key with this fingerprint and no other one.

    :param where: What the file is called in a message.
    :raises DriverError: When it does not.
    """
    wanted = fingerprint.replace(" ", "").upper()
    found = fingerprints(armored, where)
    if found != [wanted]:
        raise DriverError(
            f"{where}: expected the key with the fingerprint {wanted} alone, found {' and '.join(found) or 'none'}; "
            "nothing was changed, ask the repository's owner before you set cuda_driver_key_fingerprint"
        )


def fingerprints(armored: str, where: str) -> list[str]:
    """Return the fingerprints of all primary keys in an armored file."""
    # Exactly one block and nothing else, or another reader of the file could find other keys in it than this one.
    match = _ARMOR.fullmatch(armored)
    if match is None:
        raise DriverError(f"{where}: expected one armored OpenPGP key and nothing else, found something different")
    try:
        packets = base64.b64decode("".join(match["packets"].split()), validate=True)
        return [_fingerprint(content) for tag, content in _packets(packets) if tag == _PUBLIC_KEY]
    except (binascii.Error, IndexError, ValueError):
        raise DriverError(f"{where}: expected an armored OpenPGP key, found something damaged") from None


def _fingerprint(content: bytes) -> str:
    if content[0] != _VERSION_4:
        raise ValueError("unknown version of a key")
    # SHA-1 is what the format prescribes for a name; nothing is signed with it here.
    digest = hashlib.sha1(b"\x99" + len(content).to_bytes(2, "big") + content, usedforsecurity=False)
    return digest.hexdigest().upper()


def _packets(data: bytes) -> list[tuple[int, bytes]]:
    packets = []
    position = 0
    while position < len(data):
        header = data[position]
        if not header & 0x80:
            raise ValueError("no packet")
        position += 1
        if header & 0x40:
            tag = header & 0x3F
            first = data[position]
            if first < 192:
                length, size = first, 1
            elif first < 224:
                length, size = ((first - 192) << 8) + data[position + 1] + 192, 2
            elif first == 255:
                length, size = int.from_bytes(data[position + 1 : position + 5], "big"), 5
            else:
                raise ValueError("a key has no partial lengths")
        else:
            tag = (header >> 2) & 0x0F
            size = 1 << (header & 0x03)
            if size == 8:
                raise ValueError("a key has no indeterminate length")
            length = int.from_bytes(data[position : position + size], "big")
        position += size
        packets.append((tag, data[position : position + length]))
        position += length
    if position != len(data):
        raise ValueError("cut off")
    return packets

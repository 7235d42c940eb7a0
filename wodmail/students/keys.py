"""New ssh key pairs. Made in this process: a ssh-keygen of its own costs about six times as much (docs/accounts.md)."""

from __future__ import annotations

from typing import Literal

from wodmail.students.treewriter import Entry


def new_pair(kind: Literal["rsa", "ed25519"], comment: str) -> list[Entry]:
    """A key pair as the files of a home's .ssh folder: id_rsa or id_ed25519 without a passphrase, and its .pub.

    Args:
        kind: rsa (2048 bits, what existing workshop scripts expect) or ed25519.
        comment: ends the public key's line.
    """
    # Imported late: most commands that deal with accounts never make a key.
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
    key = rsa.generate_private_key(65537, 2048) if kind == "rsa" else ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return [
        Entry(".ssh", "dir", 0o700),
        Entry(f".ssh/id_{kind}", "file", 0o600, private),
        Entry(f".ssh/id_{kind}.pub", "file", 0o644, public + f" {comment}\n".encode()),
    ]

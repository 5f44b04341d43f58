#!/usr/bin/env python3
"""Decrypt the objects of an off-site copy, without backupfs: the emergency exit, and the second implementation.

    decrypt.py KEYFILE OBJECT NAME       the plain bytes of one object go to standard output
    decrypt.py KEYFILE COPY DIRECTORY    all objects of a copy (a directory) are written to a new directory

KEYFILE has the 24 words of the master key, or its 64 hexadecimal digits; "none" stands for a copy that is not encrypted.
NAME is the name that the object has in the copy, such as s/7: an object is readable under its own name only.

It needs Python 3 and the package "cryptography" (Debian: python3-cryptography), and for words the file bip39-english.txt
beside it. The format is described in docs/offsite-format.md.
"""
import hashlib
import hmac
import os
import struct
import sys

CHUNK, TAG, HEADER = 16 << 10, 16, 64


def master_key(text):
    """The 32 bytes of the key, from 64 hexadecimal digits or from 24 words."""
    if len(text.strip()) == 64:
        return bytes.fromhex(text.strip())
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bip39-english.txt")
    with open(beside, encoding="ascii") as file:
        index = {word: number for number, word in enumerate(file.read().split())}
    words = text.lower().split()
    unknown = [f"word {at}" for at, word in enumerate(words, 1) if word not in index]
    if unknown or len(words) != 24:
        sys.exit("these are not 24 words of the list; look at " + (", ".join(unknown) or f"their number, {len(words)}"))
    bits = 0
    for word in words:
        bits = bits << 11 | index[word]
    key, checksum = (bits >> 8).to_bytes(32, "big"), bits & 0xFF
    if hashlib.sha256(key).digest()[0] != checksum:
        sys.exit("the checksum of the words is wrong: is there a typo, or are two of them exchanged?")
    return key


def derive(secret, salt, info):
    """HKDF-SHA256 (RFC 5869), 32 bytes."""
    return hmac.digest(hmac.digest(salt, secret, "sha256"), info + b"\x01", "sha256")


def opened(key, nonce, aad, message, is_encrypted):
    """The plain bytes of a message with its tag."""
    if is_encrypted:
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        return ChaCha20Poly1305(key).decrypt(nonce, message, aad)
    message, tag = message[:-TAG], message[-TAG:]
    if not hmac.compare_digest(hmac.digest(key, nonce + aad + message, "sha256")[:TAG], tag):
        raise ValueError("damaged")
    return message


def decrypt(key, name, data):
    """The plain bytes of an object; an exception if anything about it is wrong."""
    magic, version, seal, padding, chunk, key_id, salt = struct.unpack("<8sHBBI8s16s", data[:40])
    if (magic, version, chunk) != (b"BKPFSOBJ", 1, CHUNK):
        raise ValueError("no object of version 1")
    own_id = hashlib.sha256(b"backupfs offsite v1 key id" + key).digest()[:8] if key else bytes(8)
    if key_id != own_id or seal != (1 if key else 0):
        raise ValueError(f"it needs the key {key_id.hex()}, and this is {own_id.hex()}")
    secret, about = key or bytes(32), name.encode()
    header_key = derive(secret, salt, b"backupfs offsite v1 header" + data[:40] + about)
    (length,) = struct.unpack("<Q", opened(header_key, bytes(12), data[:40], data[40:HEADER], key))
    chunk_key = derive(secret, salt, b"backupfs offsite v1 chunks" + data[:HEADER] + about)
    pieces = [data[at : at + CHUNK + TAG] for at in range(HEADER, len(data), CHUNK + TAG)]
    nonces = [number.to_bytes(11, "big") + bytes([number == len(pieces) - 1]) for number in range(len(pieces))]
    plain = b"".join(opened(chunk_key, nonce, b"", piece, key) for nonce, piece in zip(nonces, pieces))
    padded = max(2048, 1 << max(length - 1, 0).bit_length()) if padding else length
    if len(plain) != padded or not pieces:
        raise ValueError("its length is not what its header says")
    return plain[:length]


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    _, keyfile, source, target = sys.argv
    key = None if keyfile == "none" else master_key(open(keyfile, encoding="ascii").read())
    if not os.path.isdir(source):
        sys.stdout.buffer.write(decrypt(key, target, open(source, "rb").read()))
        return
    os.makedirs(target, mode=0o700)
    failed = 0
    for directory, _, files in os.walk(source):
        for path in (os.path.join(directory, file) for file in files):
            name = os.path.relpath(path, source)
            data = open(path, "rb").read()
            if data[:8] != b"BKPFSOBJ":
                continue
            try:
                plain = decrypt(key, name, data)
            except Exception as error:
                failed += 1
                print(f"{name}: {error or 'changed, damaged, or exchanged for another object'}", file=sys.stderr)
                continue
            os.makedirs(os.path.join(target, os.path.dirname(name)), mode=0o700, exist_ok=True)
            with open(os.path.join(target, name), "wb") as file:
                file.write(plain)
    if failed:
        sys.exit(f"{failed} objects cannot be decrypted")


if __name__ == "__main__":
    main()

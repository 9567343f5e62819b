#!/usr/bin/env python3
"""Known answers for WireGuard's handshake, computed from the paper (section 5.4) and nothing else.

Independent of the project and of every crate it uses: the composition is written here once more, after the paper's formulas,
over Python's hashlib and hmac (BLAKE2s) and the `cryptography` package (OpenSSL's X25519 and ChaCha20-Poly1305).

    python3 generate.py > handshake.txt

Each line is `name = hex`; an empty line ends a vector. Secrets that must be gone when a session is are in there too, for the
test that looks for them in memory: their names begin with `secret_`.
"""

import hashlib
import hmac as hmac_module

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

CONSTRUCTION = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
IDENTIFIER = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
GRAIN = 1 << 24  # nanoseconds that timestamps are rounded down to
LEAP_SECONDS = 37


def HASH(data):
    return hashlib.blake2s(data).digest()


def MAC(key, data):
    return hashlib.blake2s(data, key=key, digest_size=16).digest()


def HMAC(key, data):
    return hmac_module.new(key, data, hashlib.blake2s).digest()


def KDF(n, key, data):
    secret, outputs, last = HMAC(key, data), [], b""
    for i in range(1, n + 1):
        last = HMAC(secret, last + bytes([i]))
        outputs.append(last)
    return outputs


def AEAD(key, counter, plaintext, additional):
    return ChaCha20Poly1305(key).encrypt(bytes(4) + counter.to_bytes(8, "little"), plaintext, additional)


def public(private):
    key = X25519PrivateKey.from_private_bytes(private).public_key()
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def DH(private, public_key):
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public_key))


def random(label):
    """32 bytes that anybody can compute again."""
    return hashlib.sha256(b"volley test vector: " + label.encode()).digest()


def clamped(key):
    return bytes([key[0] & 248]) + key[1:31] + bytes([key[31] & 127 | 64])


def macs(message, receiver):
    mac1 = MAC(HASH(b"mac1----" + receiver), message)
    return message + mac1 + bytes(16)  # no cookie, no mac2


def data_message(receiver, key, counter, plaintext):
    header = b"\x04\0\0\0" + receiver.to_bytes(4, "little") + counter.to_bytes(8, "little")
    return header + AEAD(key, counter, plaintext, b"")


def vector(name, psk, seconds, nanoseconds):
    secret = lambda what: clamped(random(f"{name} {what}"))
    si, sr, ei, er = secret("static i"), secret("static r"), secret("ephemeral i"), secret("ephemeral r")
    Si, Sr, Ei, Er = map(public, (si, sr, ei, er))
    sender_i = int.from_bytes(random(f"{name} index i")[:4], "little")
    sender_r = int.from_bytes(random(f"{name} index r")[:4], "little")
    Q = psk or bytes(32)
    timestamp = (2**62 + LEAP_SECONDS + seconds).to_bytes(8, "big")
    timestamp += (nanoseconds // GRAIN * GRAIN).to_bytes(4, "big")
    secrets = {}

    # 5.4.2, first message
    C = HASH(CONSTRUCTION)
    H = HASH(HASH(C + IDENTIFIER) + Sr)
    H = HASH(H + Ei)
    (C,) = KDF(1, C, Ei)
    secrets["es"] = DH(ei, Sr)
    C, k = KDF(2, C, secrets["es"])
    secrets["chain_1"], secrets["key_static"] = C, k
    enc_static = AEAD(k, 0, Si, H)
    H = HASH(H + enc_static)
    secrets["ss"] = DH(si, Sr)
    C, k = KDF(2, C, secrets["ss"])
    secrets["chain_2"], secrets["key_timestamp"] = C, k
    enc_timestamp = AEAD(k, 0, timestamp, H)
    H = HASH(H + enc_timestamp)
    initiation = b"\x01\0\0\0" + sender_i.to_bytes(4, "little") + Ei + enc_static + enc_timestamp
    initiation = macs(initiation, Sr)

    # 5.4.3, second message
    (C,) = KDF(1, C, Er)
    H = HASH(H + Er)
    secrets["chain_3"] = C
    secrets["ee"] = DH(er, Ei)
    (C,) = KDF(1, C, secrets["ee"])
    secrets["chain_4"] = C
    secrets["se"] = DH(er, Si)
    (C,) = KDF(1, C, secrets["se"])
    secrets["chain_5"] = C
    C, tau, k = KDF(3, C, Q)
    secrets["chain_6"], secrets["tau"], secrets["key_empty"] = C, tau, k
    H = HASH(H + tau)
    enc_empty = AEAD(k, 0, b"", H)
    response = b"\x02\0\0\0" + sender_r.to_bytes(4, "little") + sender_i.to_bytes(4, "little") + Er + enc_empty
    response = macs(response, Si)

    # 5.4.5
    send_i, send_r = KDF(2, C, b"")
    secrets["initiators"], secrets["responders"] = send_i, send_r
    secrets["static_i"], secrets["static_r"], secrets["ephemeral_i"], secrets["ephemeral_r"] = si, sr, ei, er
    if psk:
        secrets["psk"] = psk

    plaintext = bytes(range(1, 49))
    fields = {
        "name": name.encode(),
        "static_i": si,
        "static_r": sr,
        "public_i": Si,
        "public_r": Sr,
        "psk": Q,
        "ephemeral_i": ei,
        "ephemeral_r": er,
        "sender_i": sender_i.to_bytes(4, "big"),
        "sender_r": sender_r.to_bytes(4, "big"),
        "seconds": seconds.to_bytes(8, "big"),
        "nanoseconds": nanoseconds.to_bytes(4, "big"),
        "initiation": initiation,
        "response": response,
        "plaintext": plaintext,
        "keepalive_from_i": data_message(sender_r, send_i, 0, b""),
        "data_from_i": data_message(sender_r, send_i, 1, plaintext),
        "data_from_r": data_message(sender_i, send_r, 0, plaintext),
    }
    fields |= {f"secret_{what}": value for what, value in secrets.items()}
    for what, value in fields.items():
        print(f"{what} = {value.hex()}")
    print()


vector("plain", None, 1_700_000_000, 123_456_789)
vector("with a pre-shared key", random("psk"), 1_800_000_000, 999_999_999)
vector("another, at the epoch", random("psk 2"), 0, 0)

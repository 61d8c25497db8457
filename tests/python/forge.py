"""Tokens that must be refused, each one change away from one that must be accepted.

The control is what makes the others meaningful: the same claims, signed again with the platform's own key, are
accepted. That key lies in the data folder of `rampart dev`, readable by the user who started it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

ACCESS_KEY = Path("secrets", "gateway", "access-signing-key.pem")
PASSPORT_KEY = Path("secrets", "gateway", "passport-signing-key.pem")


def platform_key(data: Path, which: Path = ACCESS_KEY) -> Ed25519PrivateKey:
    return load_pem_private_key((data / which).read_bytes(), password=None)


def parts(token: str) -> tuple[dict, dict]:
    """Header and claims, unverified."""
    header, claims, _ = token.split(".")
    return json.loads(_decode(header)), json.loads(_decode(claims))


def signed(header: dict, claims: dict, key: Ed25519PrivateKey) -> str:
    text = f"{_encode(header)}.{_encode(claims)}"
    return f"{text}.{_base64(key.sign(text.encode()))}"


def bad_tokens(token: str, data: Path) -> dict[str, str]:
    """By name, every token that must be refused, made from one that is accepted."""
    header, claims = parts(token)
    own_key, now = platform_key(data), int(time.time())
    text, signature = token.rsplit(".", 1)
    # The last character of 64 bytes in base64url carries padding bits: change one in the middle.
    flipped = signature[:40] + ("A" if signature[40] != "A" else "B") + signature[41:]
    public = own_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return {
        "not a token": "hunter2",
        "empty": "",
        "signature changed": f"{text}.{flipped}",
        "signature cut off": f"{text}.",
        "claims changed": ".".join([_encode(header), _encode({**claims, "roles": ["admin", "engineer"]}), signature]),
        "expired": signed(header, {**claims, "iat": now - 7200, "nbf": now - 7200, "exp": now - 3600}, own_key),
        "not yet valid": signed(header, {**claims, "iat": now + 3600, "nbf": now + 3600, "exp": now + 7200}, own_key),
        "without an end": signed(header, {name: claims[name] for name in claims if name != "exp"}, own_key),
        "signed by a foreign key": signed(header, claims, Ed25519PrivateKey.generate()),
        "signed with the passport key": signed(header, claims, platform_key(data, PASSPORT_KEY)),
        "alg none": f"{_encode({**header, 'alg': 'none'})}.{_encode(claims)}.",
        "alg none, signature kept": f"{_encode({**header, 'alg': 'none'})}.{_encode(claims)}.{signature}",
        "HMAC with the public key": _hmac({**header, "alg": "HS256"}, claims, public),
        "for another audience": signed(header, {**claims, "aud": "https://elsewhere.example"}, own_key),
        "from another issuer": signed(header, {**claims, "iss": "https://elsewhere.example"}, own_key),
        "of another type": signed({**header, "typ": "JWT"}, claims, own_key),
        "under an unknown key id": signed({**header, "kid": "unknown"}, claims, own_key),
    }


def control(token: str, data: Path) -> str:
    """Header and claims of a good token, signed again with the platform's key."""
    return signed(*parts(token), platform_key(data))


def _hmac(header: dict, claims: dict, key: bytes) -> str:
    text = f"{_encode(header)}.{_encode(claims)}"
    return f"{text}.{_base64(hmac.new(key, text.encode(), hashlib.sha256).digest())}"


def _encode(value: dict) -> str:
    return _base64(json.dumps(value, separators=(",", ":")).encode())


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _decode(value: str) -> bytes:
    return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))

"""AES-256-GCM in plain Python, by FIPS 197 and NIST SP 800-38D: the oracle for what is sealed. Slow, and nobody's secret."""

from __future__ import annotations

from itertools import count

BLOCK = 16
_ROUNDS = 14
_KEY_WORDS = 8
#: The polynomial of GCM's field, with its bits in GCM's order.
_REDUCTION = 0xE1 << 120


def _times_two(byte: int) -> int:
    return (byte << 1 ^ (0x11B if byte & 0x80 else 0)) & 0xFF


def _make_sbox() -> list[int]:
    sbox, power, inverse = [0x63] * 256, 1, 1
    for _ in range(255):
        # `power` runs through 3^n, `inverse` through 3^-n.
        power ^= _times_two(power)
        for shift in (1, 2, 4):
            inverse = (inverse ^ inverse << shift) & 0xFF
        inverse ^= 0x09 if inverse & 0x80 else 0
        turned = inverse
        for shift in range(1, 5):
            turned ^= (inverse << shift | inverse >> 8 - shift) & 0xFF
        sbox[power] = turned ^ 0x63
    return sbox


SBOX = _make_sbox()


def expand_key(key: bytes) -> list[bytes]:
    """The round keys of a key of 32 bytes."""
    words = [key[at : at + 4] for at in range(0, len(key), 4)]
    constant = 1
    while len(words) < 4 * (_ROUNDS + 1):
        word, place = words[-1], len(words) % _KEY_WORDS
        if place == 0:
            word = bytes(SBOX[one] for one in word[1:] + word[:1])
            word = bytes([word[0] ^ constant]) + word[1:]
            constant = _times_two(constant)
        elif place == 4:
            word = bytes(SBOX[one] for one in word)
        words.append(_xor(words[-_KEY_WORDS], word))
    return [b"".join(words[at : at + 4]) for at in range(0, len(words), 4)]


def encrypt_block(round_keys: list[bytes], block: bytes) -> bytes:
    state = _xor(block, round_keys[0])
    for number in range(1, _ROUNDS + 1):
        # Bytes lie in columns; row r is turned by r columns.
        state = bytes(SBOX[state[(at + 4 * (at % 4)) % BLOCK]] for at in range(BLOCK))
        if number < _ROUNDS:
            state = b"".join(_mix(state[at : at + 4]) for at in range(0, BLOCK, 4))
        state = _xor(state, round_keys[number])
    return state


def _mix(column: bytes) -> bytes:
    total = column[0] ^ column[1] ^ column[2] ^ column[3]
    return bytes(
        one ^ total ^ _times_two(one ^ following)
        for one, following in zip(column, column[1:] + column[:1], strict=True)
    )


def _xor(one: bytes, two: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, two, strict=False))


def _multiply(one: int, two: int) -> int:
    product = 0
    for bit in range(127, -1, -1):
        if two >> bit & 1:
            product ^= one
        one = one >> 1 ^ (_REDUCTION if one & 1 else 0)
    return product


def _ghash(subkey: int, *parts: bytes) -> int:
    digest = 0
    lengths = b"".join((8 * len(part)).to_bytes(8, "big") for part in parts)
    for part in (*parts, lengths):
        for at in range(0, len(part), BLOCK):
            block = part[at : at + BLOCK].ljust(BLOCK, b"\0")
            digest = _multiply(digest ^ int.from_bytes(block, "big"), subkey)
    return digest


def seal(key: bytes, nonce: bytes, plain: bytes, bound: bytes) -> bytes:
    """What `plain` becomes, with its tag behind; `bound` is authenticated with it. The nonce has 12 bytes."""
    round_keys = expand_key(key)
    stream = (encrypt_block(round_keys, nonce + number.to_bytes(4, "big")) for number in count(1))
    mask = next(stream)
    sealed = b"".join(_xor(plain[at : at + BLOCK], next(stream)) for at in range(0, len(plain), BLOCK))
    subkey = int.from_bytes(encrypt_block(round_keys, bytes(BLOCK)), "big")
    return sealed + _xor(_ghash(subkey, bound, sealed).to_bytes(BLOCK, "big"), mask)

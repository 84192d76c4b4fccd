"""Binary decisions <-> bytes: a range coder with 32 bits of state (Martin 1979), one decision per step.

The encoder's number is low, and its range is kept at 2**24 or more. It writes digits of 8 bits that a later carry may
still raise, so that it never waits for the end of a run of 255s; `finish` adds the carries up.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

WINDOW = 1 << 17  # digits written, or bytes read, in one call of a program, and some more
MARGIN = 16


class Coding(NamedTuple):
    """uint32 scalars. low: the encoder's number; the decoder's code, counted from it. place: bytes shifted out in this
    call. pending: the encoder's digit before `low`.
    """

    low: Array
    width: Array
    place: Array
    pending: Array


def start(code: int = 0) -> Coding:
    """Of the encoder; of the decoder if given the first four bytes of the payload, the first one highest."""
    return Coding(jnp.uint32(code), jnp.uint32(0xFFFFFFFF), jnp.uint32(0), jnp.uint32(0))


def encode(coding: Coding, bit: Array, chance: Array, digits: Array) -> tuple[Coding, Array]:
    """Codes a decision that is 1 with `chance` / 65536; digits: uint32 [WINDOW + MARGIN], updated in place."""
    bound = (coding.width >> 16) * chance
    low = jnp.where(bit == 1, coding.low, coding.low + bound)
    width = jnp.where(bit == 1, bound, coding.width - bound)
    shift = lax.clz(width) >> 3
    carry = (low < coding.low).astype(jnp.uint32)
    fresh = jnp.stack([coding.pending + carry, low >> 24, low >> 16 & 255, low >> 8 & 255])
    digits = lax.dynamic_update_slice(digits, fresh, (coding.place,))
    return Coding(low << 8 * shift, width << 8 * shift, coding.place + shift, fresh[shift]), digits


def decode(coding: Coding, chance: Array, words: Array) -> tuple[Coding, Array]:
    """-> (coding, bit). words: uint32, at i the bytes i to i + 3 of the payload, the first one highest."""
    bound = (coding.width >> 16) * chance
    one = coding.low < bound
    low = jnp.where(one, coding.low, coding.low - bound)
    width = jnp.where(one, bound, coding.width - bound)
    shift = lax.clz(width) >> 3
    low = low << 8 * shift | words[coding.place] >> (32 - 8 * shift)  # a shift by 32 gives 0
    return Coding(low, width << 8 * shift, coding.place + shift, coding.pending), one.astype(jnp.uint32)


def words(payload: bytes, start: int) -> np.ndarray:
    """What `decode` reads in one call, from byte `start` on; after the end of the payload come zeros."""
    data = np.zeros(WINDOW + MARGIN + 3, np.uint32)
    piece = np.frombuffer(payload[start : start + len(data)], np.uint8)
    data[: len(piece)] = piece
    return data[:-3] << 24 | data[1:-2] << 16 | data[2:-1] << 8 | data[3:]


def finish(coding: Coding, digits: list[np.ndarray]) -> bytes:
    """The payload: all digits, and one byte more if the decoder needs it to be inside of the range."""
    every = np.concatenate([*digits, np.array([coding.pending], np.uint32)])
    number = int.from_bytes((every & 255).astype(np.uint8).tobytes(), "big")
    number += int.from_bytes((every >> 8).astype(np.uint8).tobytes(), "big") << 8
    number = (number << 32) + int(coding.low)
    payload = (-(-number >> 24)).to_bytes(len(every) + 1, "big")[1:]  # rounded up; the first digit is before the point
    return payload[:-1] if payload[-1] == 0 else payload

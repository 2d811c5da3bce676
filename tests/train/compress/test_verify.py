"""A message's header tells what has become of it: another length, other bytes, or other values than at its sender."""

from __future__ import annotations

import pytest

from mcc.core.errors import MccError
from mcc.train.compress import verify
from mcc.train.compress.codec import Context, pack
from tests.train.compress.streams import make, normal

WHERE = "pp.forward, boundary 0"


def sent():
    """A header, its payload, and what that decodes to."""
    codec, x = make("quantize:bits=4", (6, 10)), normal(6, 10)
    payload = codec.encode(x, Context())
    message, seen = pack(payload), codec.decode(payload, Context())
    return verify.header(message, seen), message, seen


def test_what_came_as_it_was_sent_passes():
    head, message, seen = sent()
    assert head.numel() == verify.HEADER_BYTES
    verify.check(head, message, seen, WHERE)


@pytest.mark.parametrize("place", [0, -1])
def test_a_flipped_bit_of_the_payload_is_named(place):
    head, message, seen = sent()
    message[place] ^= 1
    with pytest.raises(MccError, match=f"{WHERE}: the payload is not what was sent"):
        verify.check(head, message, seen, WHERE)


def test_a_short_message_is_named_with_both_lengths():
    head, message, seen = sent()
    count = message.numel()
    with pytest.raises(MccError, match=f"{WHERE}: {count} bytes were sent, {count - 1} expected"):
        verify.check(head, message[:-1], seen, WHERE)


def test_a_value_that_decodes_otherwise_is_named():
    head, message, seen = sent()
    seen[2, 3] += 1e-3
    with pytest.raises(MccError, match=f"{WHERE}: the payload decodes to other bits than at its sender"):
        verify.check(head, message, seen, WHERE)

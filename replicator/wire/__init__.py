"""Bytes to records and back: the libxc (v2, v3) and libxl (v2) migration streams. No I/O, no clock.

`StreamDecoder` and `StreamEncoder` are the two directions, `verify_stream` judges a whole stream, `recording`
makes and parses the pieces that a protection session sends.
"""

from replicator.wire.decoder import StreamDecoder, decode_stream
from replicator.wire.encoder import StreamEncoder, encode_record
from replicator.wire.grammar import StreamKind
from replicator.wire.verify import VerifyReport, verify_stream

__all__ = [
    "StreamDecoder",
    "StreamEncoder",
    "StreamKind",
    "VerifyReport",
    "decode_stream",
    "encode_record",
    "verify_stream",
]

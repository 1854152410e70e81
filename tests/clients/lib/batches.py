"""Record batches (magic 2) as bytes, for what no client library sends."""

import struct

CRC_POLYNOMIAL = 0x82F63B78
CRC_TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (CRC_POLYNOMIAL if byte & 1 else 0)
    CRC_TABLE.append(byte)
# A time that both brokers take and no clock of a test machine is before.
TIMESTAMP = 1_700_000_000_000


def crc32c(data):
    """The checksum of a batch."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def varint(number):
    """A signed number of variable width."""
    number = number << 1 ^ number >> 63
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])


def field(data):
    """A key or a value."""
    return varint(-1) if data is None else varint(len(data)) + data


def batch(records, damaged=False, magic=2):
    """A batch of (key, value) records a millisecond apart, by no idempotent producer."""
    body = b""
    for at, (key, value) in enumerate(records):
        record = b"\0" + varint(at) + varint(at) + field(key) + field(value) + varint(0)
        body += varint(len(record)) + record
    last = len(records) - 1
    checked = struct.pack(">hiqqqhii", 0, last, TIMESTAMP, TIMESTAMP + last, -1, -1, -1, len(records)) + body
    crc = crc32c(checked) ^ (1 if damaged else 0)
    return struct.pack(">qiibI", 0, 9 + len(checked), -1, magic, crc) + checked

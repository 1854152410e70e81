"""Kafka's protocol as plain values: dictionaries to request frames and answer frames to dictionaries, in
any version, as the tables in proto/tables describe them. For what no client library sends or shows."""

import re
import socket
import struct

from lib import tools

TIMEOUT_S = 20
ANSWER_BYTES_MAX = 64 << 20
NUMBERS = {"int8": ">b", "int16": ">h", "uint16": ">H", "int32": ">i", "uint32": ">I", "int64": ">q",
           "float64": ">d"}
API_VERSIONS = 18


class Field:
    """A line of a table: a field, and those below it if it is a struct."""

    def __init__(self, line):
        words = line.split()
        self.name, kind, self.versions = words[0], words[1], span(words[2])
        self.is_array, self.kind = kind.startswith("[]"), kind.removeprefix("[]")
        rest = words[3:]
        self.null = span(rest[rest.index("null") + 1]) if "null" in rest else None
        self.tag = int(rest[rest.index("tag") + 1]) if "tag" in rest else None
        self.default = rest[rest.index("default") + 1] if "default" in rest else None
        self.fields = []

    def has(self, version):
        """Whether the field is there in this version."""
        return self.versions[0] <= version <= self.versions[1]

    def may_be_null(self, version):
        """Whether null is a value of it in this version."""
        return self.kind == "records" or bool(self.null) and self.null[0] <= version <= self.null[1]

    def initial(self):
        """The value of a field that nobody set."""
        if self.default == "null":
            return None
        if self.is_array:
            return []
        if self.fields:
            return {}
        if self.kind in NUMBERS:
            return int(self.default or 0)
        return {"bool": self.default == "true", "string": self.default or "", "bytes": b"", "records": None,
                "uuid": bytes(16)}[self.kind]


class Message:
    """A request or a response: its versions and its fields."""

    def __init__(self, line):
        _, versions, _, flexible = line.split()
        self.versions, self.fields, self.structs = span(versions), [], {}
        self.flexible_from = span(flexible)[0] if flexible != "none" else 1 << 15


def span(text):
    """(first, last) of `3`, `3-5` or `3+`."""
    first, _, last = text.partition("-")
    return (int(first.rstrip("+")), 1 << 15 if text.endswith("+") else int(last or first))


class Api:
    """One table."""

    def __init__(self, text):
        self.request = self.response = None
        lines = [line for line in text.splitlines() if line.strip()]
        _, key, self.name = lines[0].split()
        self.key = int(key)
        for line in lines[1:]:
            depth = (len(line) - len(line.lstrip())) // 2
            if depth == 0:
                message = Message(line)
                setattr(self, line.split()[0], message)
                above = [message.fields]
            elif line.split()[0] == "struct":
                above[depth:] = [message.structs.setdefault(line.split()[1], [])]
            else:
                field = Field(line)
                above[depth - 1].append(field)
                above[depth:] = [field.fields]
        for message in (self.request, self.response):
            shared(message.fields, message.structs, {})


def shared(fields, structs, seen):
    """Gives the fields of a struct that several fields use to each of them."""
    for field in fields:
        known = field.kind in NUMBERS or field.kind in ("bool", "string", "bytes", "records", "uuid")
        if not known:
            field.fields = field.fields or structs.get(field.kind) or seen[field.kind]
            seen[field.kind] = field.fields
            shared(field.fields, structs, seen)


def apis():
    """All tables, by name."""
    found = [Api(path.read_text()) for path in sorted((tools.ROOT / "proto/tables").glob("*.txt"))]
    return {api.name: api for api in found}


def uvarint(number):
    """An unsigned variable-length number."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])


def length(count, flexible, wide):
    """A length before something; None is null."""
    if flexible:
        return uvarint(0 if count is None else count + 1)
    return struct.pack(">i" if wide else ">h", -1 if count is None else count)


def encode(fields, values, version, flexible):
    """The bytes of a struct."""
    unknown = set(values) - {field.name for field in fields}
    assert not unknown, f"no such fields: {unknown}"
    out, tagged = b"", []
    for field in fields:
        if not field.has(version):
            continue
        value = values.get(field.name, field.initial())
        if field.tag is None:
            out += encode_field(field, value, version, flexible)
        elif field.name in values:
            data = encode_field(field, value, version, flexible)
            tagged.append(uvarint(field.tag) + uvarint(len(data)) + data)
    return out + (uvarint(len(tagged)) + b"".join(tagged) if flexible else b"")


def encode_field(field, value, version, flexible):
    """The bytes of one field."""
    if not field.is_array:
        return encode_one(field, value, version, flexible)
    if value is None:
        return length(None, flexible, True)
    return length(len(value), flexible, True) + b"".join(
        encode_one(field, one, version, flexible) for one in value)


def encode_one(field, value, version, flexible):
    """The bytes of one value."""
    if field.kind in NUMBERS:
        return struct.pack(NUMBERS[field.kind], value)
    if field.kind == "bool":
        return bytes([value])
    if field.kind == "uuid":
        return value
    if field.kind in ("string", "bytes", "records"):
        data = value.encode() if isinstance(value, str) else value
        return length(None if data is None else len(data), flexible, field.kind != "string") + (data or b"")
    mark = b""
    if not field.is_array and field.null:
        mark = b"\xff" if value is None else b"\x01"
    return mark + (b"" if value is None else encode(field.fields, value, version, flexible))


class Reader:
    """Takes values off the front of a frame."""

    def __init__(self, data, version, flexible):
        self.data, self.at, self.version, self.flexible = data, 0, version, flexible

    def take(self, count):
        """The next bytes."""
        assert 0 <= count <= len(self.data) - self.at, f"{count} bytes at {self.at} of {len(self.data)}"
        self.at += count
        return self.data[self.at - count:self.at]

    def number(self, form):
        """A number of fixed width."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def uvarint(self):
        """A number of variable width."""
        number, shift = 0, 0
        while True:
            byte = self.take(1)[0]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7

    def length(self, wide):
        """A length, None for null."""
        count = self.uvarint() - 1 if self.flexible else self.number(">i" if wide else ">h")
        return None if count < 0 else count

    def struct(self, fields):
        """A struct as a dictionary. Tagged fields that the answer leaves out are not in it."""
        values = {field.name: self.field(field) for field in fields if field.tag is None and field.has(self.version)}
        for _ in range(self.uvarint() if self.flexible else 0):
            tag, size = self.uvarint(), self.uvarint()
            end = self.at + size
            field = next((field for field in fields if field.tag == tag and field.has(self.version)), None)
            values[field.name if field else f"tag {tag}"] = self.field(field) if field else self.take(size)
            assert self.at == end, f"tagged field {tag} has {size} bytes"
        return values

    def field(self, field):
        """One field."""
        if not field.is_array:
            return self.one(field)
        count = self.length(True)
        return None if count is None else [self.one(field) for _ in range(count)]

    def one(self, field):
        """One value."""
        if field.kind in NUMBERS:
            return self.number(NUMBERS[field.kind])
        if field.kind == "bool":
            return self.take(1) != b"\0"
        if field.kind == "uuid":
            return self.take(16)
        if field.kind in ("string", "bytes", "records"):
            count = self.length(field.kind != "string")
            data = None if count is None else self.take(count)
            return data.decode() if data is not None and field.kind == "string" else data
        if not field.is_array and field.null and self.take(1) == b"\xff":
            return None
        return self.struct(field.fields)


class Connection:
    """One connection; each call is one request. A broker that closes it raises ConnectionError."""

    def __init__(self, address):
        host, port = re.fullmatch(r"(.*):(\d+)", address).groups()
        self.socket = socket.create_connection((host, int(port)), TIMEOUT_S)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def ask(self, api, version, values):
        """Sends a request and returns its answer's fields."""
        flexible = version >= api.request.flexible_from
        head = struct.pack(">hhih", api.key, version, 7, 4) + b"test" + (b"\0" if flexible else b"")
        frame = head + encode(api.request.fields, values, version, flexible)
        self.socket.sendall(struct.pack(">i", len(frame)) + frame)
        size = struct.unpack(">i", self.exactly(4))[0]
        assert 0 < size <= ANSWER_BYTES_MAX, f"an answer of {size} bytes"
        reader = Reader(self.exactly(size), version, version >= api.response.flexible_from)
        assert reader.number(">i") == 7, "another request's answer"
        if reader.flexible and api.key != API_VERSIONS:
            reader.uvarint()
        answer = reader.struct(api.response.fields)
        assert reader.at == size, f"{size - reader.at} bytes behind the answer"
        return answer

    def exactly(self, count):
        """Reads so many bytes."""
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise ConnectionError("the broker closed the connection")
            data += piece
        return data

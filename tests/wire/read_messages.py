#!/usr/bin/env python3
"""Reads the messages of a shared queue, following docs/wire-format.md and nothing else.

    read_messages.py --url amqp://user:password@host/vhost --queue salesforce --partitions 8 \\
                     --key 2026-11=/run/secrets/key-2026-11 --records 100

Prints one JSON object for each record, in the order of its partition: table, action and partition, then the members of
the record's line as they came. Checks what the page says a reader must check, and that every record lies in the partition
of its key.

Leaves the messages in the queues unless told to --ack; the broker counts such a reading as a delivery. Each partition has one
active consumer at a time: while another one is attached, this one waits.

Exit code: 0 all asked for was read, 1 a message was refused or the broker gave too few, 2 usage.

Needs pika, pycryptodome and zstandard.
"""

import argparse
import base64
import binascii
import collections
import hmac
import json
import pathlib
import re
import struct
import sys
import time

import pika
import zstandard
from Crypto.Cipher import AES, DES3
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF

# Name on the wire: module, bytes of its key, bytes of its block.
CIPHERS = {"TripleDES": (DES3, 24, 8), "AES128": (AES, 16, 16), "AES256": (AES, 32, 16)}
UNSEALED = ("None", "Base64")
ACTIONS = ("insert", "update", "delete", "bulk")
MAC_BYTES = 32
ZSTD_WINDOW_BYTES = 8 << 20

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
VERSION = re.compile(r"[0-9a-f]{32}")
AT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", re.ASCII)


class Refused(Exception):
    """A message or a record that is not what the page says. The text never shows a value of a record."""


class Number(str):
    """A JSON number in the digits of its line."""


# --- clear properties ------------------------------------------------------------------------------------------------


def header(headers, name, kind):
    value = headers.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Refused(f"header {name} is missing or malformed")
    return value


def read_clear(properties):
    """Checks 1 and 2: the clear properties, as a dictionary."""
    headers = properties.headers or {}
    version = header(headers, "v", int)
    if version != 1:
        raise Refused(f"wire version {version} is not known")
    clear = {name: header(headers, name, str) for name in ("source", "share", "table", "action", "cipher", "key")}
    clear |= {name: header(headers, name, int) for name in ("partition", "records")}
    if clear["action"] not in ACTIONS:
        raise Refused("header action is missing or malformed")
    if clear["cipher"] not in CIPHERS and clear["cipher"] not in UNSEALED:
        raise Refused("header cipher is missing or malformed")
    for name in ("partition", "records"):
        if not 0 <= clear[name] < 1 << 32:
            raise Refused(f"header {name} is missing or malformed")
    if properties.content_encoding not in ("none", "zstd"):
        raise Refused("property content_encoding is missing or malformed")
    if not UUID.fullmatch(properties.message_id or ""):
        raise Refused("property message_id is missing or malformed")
    return clear | {"v": version, "content_encoding": properties.content_encoding, "message_id": properties.message_id}


# --- body ------------------------------------------------------------------------------------------------------------


def derive(secret, cipher):
    """The subkeys to encrypt and to authenticate."""
    _, key_bytes, _ = CIPHERS[cipher]

    def subkey(purpose, length):
        return HKDF(secret, length, b"", SHA256, context=f"syncline/1 {cipher} {purpose}".encode())

    return subkey("encrypt", key_bytes), subkey("mac", 32)


def mac_input(clear):
    """The clear fields of the MAC, each with its length."""
    names = (
        "v", "source", "share", "table", "action", "partition", "content_encoding", "cipher", "key", "message_id",
    )  # fmt: skip
    fields = [str(clear[name]).encode() for name in names]
    return b"".join(struct.pack(">I", len(field)) + field for field in fields)


def decrypt(clear, body, secret):
    """Checks 5 to 7. A key of another cipher fails in the MAC: the subkeys are of the cipher that the header names."""
    refused = Refused("the body does not open under its key")
    module, _, block = CIPHERS[clear["cipher"]]
    encrypt_key, mac_key = derive(secret, clear["cipher"])
    sealed, mac = body[:-MAC_BYTES], body[-MAC_BYTES:]
    if len(body) < MAC_BYTES or not hmac.compare_digest(mac, hmac.digest(mac_key, mac_input(clear) + sealed, "sha256")):
        raise refused
    iv, ciphertext = sealed[:block], sealed[block:]
    if not ciphertext or len(ciphertext) % block:
        raise refused
    padded = module.new(encrypt_key, module.MODE_CBC, iv).decrypt(ciphertext)
    padding = padded[-1]
    if not 1 <= padding <= block or padded[-padding:] != bytes([padding]) * padding:
        raise refused
    return padded[:-padding]


def unpack(clear, packed, bytes_max):
    """Check 8: the plaintext, at most `bytes_max` long."""
    if clear["content_encoding"] == "none":
        plain = packed
    else:
        plain, window = bytearray(), max(ZSTD_WINDOW_BYTES, bytes_max)
        frame = zstandard.ZstdDecompressor(max_window_size=window).decompressobj()
        try:
            # In small pieces: 256 bytes give 8 MiB at most, so that no frame can take more memory than that beyond the bound.
            for at in range(0, len(packed), 256):
                if frame.eof:
                    raise Refused("there is something behind the Zstandard frame")
                plain += frame.decompress(packed[at : at + 256])
                if len(plain) > bytes_max:
                    break
        except zstandard.ZstdError:
            raise Refused("the body does not decompress") from None
        if len(plain) <= bytes_max and (not frame.eof or frame.unused_data):
            raise Refused("the body is not one Zstandard frame")
    if len(plain) > bytes_max:
        raise Refused(f"the plaintext is longer than {bytes_max} bytes")
    return bytes(plain)


def open_body(clear, body, secrets, accept_unsealed, bytes_max):
    """Checks 3 to 8: the plaintext."""
    if clear["cipher"] in UNSEALED:
        if not accept_unsealed:
            raise Refused(f"the body is not sealed (cipher {clear['cipher']})")
        try:
            packed = body if clear["cipher"] == "None" else base64.b64decode(body, validate=True)
        except binascii.Error:
            raise Refused("the body is no base64") from None
    elif clear["key"] not in secrets:
        raise Refused(f"key {clear['key']!r} is not known")
    else:
        packed = decrypt(clear, body, secrets[clear["key"]])
    return unpack(clear, packed, bytes_max)


# --- records ---------------------------------------------------------------------------------------------------------


def members(pairs):
    """An object whose names occur once."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def no_constant(name):
    raise ValueError(f"{name} is no JSON")


def is_value(value):
    """Whether this is one of the forms of a column value."""
    if isinstance(value, dict):
        return list(value) == ["base64"] and isinstance(value["base64"], str) and is_base64(value["base64"])
    return value is None or isinstance(value, (bool, str))


def is_base64(text):
    try:
        base64.b64decode(text, validate=True)
    except ValueError:
        return False
    return True


def is_columns(row):
    return isinstance(row, dict) and all(map(is_value, row.values()))


def read_line(line, action):
    """Check 10: the members of one line."""
    record = json.loads(
        line, object_pairs_hook=members, parse_int=Number, parse_float=Number, parse_constant=no_constant
    )
    if not isinstance(record, dict):
        raise ValueError("no object")
    json.dumps(record, ensure_ascii=False).encode()  # fails on half a surrogate pair, which is no text
    key, data = record.get("key"), record.get("data")
    if not is_columns(key) or not key or None in key.values():
        raise ValueError("key")
    for name, form in (("version", VERSION), ("at", AT)):
        value = record.get(name)
        if not isinstance(value, str) or isinstance(value, Number) or not form.fullmatch(value):
            raise ValueError(name)
    if ("data" in record) == (action == "delete") or ("data" in record and not is_columns(data)):
        raise ValueError("data")
    if not isinstance(record.get("partial", False), bool):
        raise ValueError("partial")
    return record


def read_records(clear, plain):
    """Every line as text, with its members."""
    for number, line in enumerate(filter(None, plain.split(b"\n")), 1):
        try:
            text = line.decode()
            yield text, read_line(text, clear["action"])
        except (ValueError, RecursionError):  # a decoding error carries the line, so it goes no further
            raise Refused(f"line {number} is not a record") from None


# --- partitions ------------------------------------------------------------------------------------------------------


def siphash_2_4(data):
    """SipHash-2-4 with a key of zeros (Aumasson and Bernstein, 2012)."""
    mask = (1 << 64) - 1
    v0, v1, v2, v3 = 0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573

    def left(word, bits):
        return (word << bits | word >> 64 - bits) & mask

    def rounds(count):
        nonlocal v0, v1, v2, v3
        for _ in range(count):
            v0, v2 = v0 + v1 & mask, v2 + v3 & mask
            v1, v3 = left(v1, 13) ^ v0, left(v3, 16) ^ v2
            v0 = left(v0, 32)
            v2, v0 = v2 + v1 & mask, v0 + v3 & mask
            v1, v3 = left(v1, 17) ^ v2, left(v3, 21) ^ v0
            v2 = left(v2, 32)

    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) % 256])
    for (word,) in struct.iter_unpack("<Q", padded):
        v3 ^= word
        rounds(2)
        v0 ^= word
    v2 ^= 0xFF
    rounds(4)
    return v0 ^ v1 ^ v2 ^ v3


def partition_of(clear, key, partitions):
    def text(value):
        if isinstance(value, bool):
            return "true" if value else "false"
        return value["base64"] if isinstance(value, dict) else value

    parts = [clear["source"], clear["table"], *map(text, key.values())]
    data = [part.encode() for part in parts]
    return siphash_2_4(b"".join(struct.pack("<Q", len(part)) + part for part in data)) % partitions


# --- the broker ------------------------------------------------------------------------------------------------------


def read_message(partition, properties, body, options):
    """The output lines of one message."""
    clear = read_clear(properties)
    plain = open_body(clear, body, options.secrets, options.accept_unsealed, options.plain_bytes_max)
    if clear["partition"] != partition:
        raise Refused(f"it was sealed for partition {clear['partition']}")
    lines = []
    where = json.dumps({name: clear[name] for name in ("table", "action", "partition")}, separators=(",", ":"))
    for number, (line, record) in enumerate(read_records(clear, plain), 1):
        belongs = partition_of(clear, record["key"], options.partitions)
        if belongs != partition:
            raise Refused(f"record {number} belongs into partition {belongs}")
        # The line itself, not the parsed record: its numbers keep their digits.
        lines.append(f"{where[:-1]},{line.strip()[1:]}\n")
    if len(lines) != clear["records"]:
        raise Refused(f"it says {clear['records']} records and holds {len(lines)}")
    return lines


def receive(channel, options):
    """Prints records until there are enough of them; how many messages and records that were."""
    waiting = collections.deque()
    channel.basic_qos(prefetch_count=min(options.messages or options.records, 65_535))
    for partition in range(options.partitions):
        channel.basic_consume(
            f"{options.queue}.{partition}",
            lambda _, method, properties, body, at=partition: waiting.append((at, method, properties, body)),
            auto_ack=False,
        )
    messages = records = 0
    deadline = time.monotonic() + options.timeout
    while messages < (options.messages or 0) or records < (options.records or 0):
        if not waiting:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Refused(f"only {messages} messages with {records} records within {options.timeout:g} seconds")
            channel.connection.process_data_events(time_limit=left)
            continue
        partition, method, properties, body = waiting.popleft()
        try:
            lines = read_message(partition, properties, body, options)
        except Refused as refused:
            raise Refused(f"message {properties.message_id} in {options.queue}.{partition}: {refused}") from None
        sys.stdout.buffer.write("".join(lines).encode())
        sys.stdout.buffer.flush()
        if options.ack:
            channel.basic_ack(method.delivery_tag)
        messages, records = messages + 1, records + len(lines)


def secret_of(argument):
    """A key id and the bytes of its secret, from `ID=FILE`."""
    key, _, path = argument.partition("=")
    if not key or not path:
        raise argparse.ArgumentTypeError(f"{argument!r} is not ID=FILE")
    try:
        secret = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"the secret of key {key!r} cannot be read: {error.strerror}") from None
    secret = secret.removesuffix(b"\n").removesuffix(b"\r")
    if len(secret) < 24:
        raise argparse.ArgumentTypeError(f"the secret of key {key!r} has fewer than 24 bytes")
    return key, secret


def positive(argument):
    number = int(argument)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def parse_arguments():
    summary, _, rest = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", required=True, help="the broker, amqp:// or amqps://")
    parser.add_argument("--queue", required=True, help="the shared queue")
    parser.add_argument("--partitions", required=True, type=positive, help="how many partitions it has")
    parser.add_argument(
        "--key", action="append", default=[], type=secret_of, metavar="ID=FILE", help="a key and its secret; repeatable"
    )
    enough = parser.add_mutually_exclusive_group(required=True)
    enough.add_argument("--messages", type=positive, metavar="N", help="read N messages")
    enough.add_argument("--records", type=positive, metavar="N", help="read messages until there are N records")
    parser.add_argument("--timeout", type=float, default=30, metavar="SECONDS", help="for all of it (default: 30)")
    parser.add_argument("--plain-bytes-max", type=positive, default=64 << 20, metavar="BYTES", help="of one message")
    parser.add_argument("--accept-unsealed", action="store_true", help="accept the ciphers None and Base64")
    parser.add_argument("--ack", action="store_true", help="take what was read off the queues")
    options = parser.parse_args()
    options.secrets = dict(options.key)
    return options


def main():
    options = parse_arguments()
    try:
        connection = pika.BlockingConnection(pika.URLParameters(options.url))
        try:
            receive(connection.channel(), options)
        finally:
            if connection.is_open:
                connection.close()
    except Refused as refused:
        sys.exit(f"read_messages: {refused}")
    except (pika.exceptions.AMQPError, OSError) as error:
        sys.exit(f"read_messages: the broker: {str(error) or type(error).__name__}")


if __name__ == "__main__":
    main()

"""What a .wandb file of an offline run holds, read without wandb's own reader.

It is LevelDB's log format after a header of 7 bytes: blocks of 32 KiB, of records with a checksum, a length, and whether they are
whole (1) or the first, a middle or the last piece (2, 3, 4). Each is a protocol buffer.
"""

import json
import struct
from pathlib import Path

_BLOCK, _HEADER, _LAST = 32768, 7, (1, 4)


def read(folder: Path):
    """The records of the one run in a folder."""
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    content, at, payload = file.read_bytes(), _HEADER, b""
    while at + _HEADER <= len(content):
        if _BLOCK - at % _BLOCK < _HEADER:  # too little of the block is left for a record
            at += _BLOCK - at % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        payload += content[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        if kind in _LAST:
            record = wandb_internal_pb2.Record()
            record.ParseFromString(payload)
            payload = b""
            yield record


def history(folder: Path) -> list[dict]:
    """What was logged, by step."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in read(folder)
        if record.WhichOneof("record_type") == "history"
    ]


def config(folder: Path) -> dict:
    """The settings with which the run began."""
    return {
        item.key: json.loads(item.value_json)
        for record in read(folder)
        if record.WhichOneof("record_type") == "run"
        for item in record.run.config.update
    }

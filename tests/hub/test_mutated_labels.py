"""Labels that were damaged or forged: refused, or they mean the same."""

from __future__ import annotations

import json
import random
import struct

import numpy as np
from safetensors.numpy import load, save

from hub_worlds import GRAPH
from mll_hf.errors import LabelError
from mll_hf.labels.file_format import label_from_bytes, label_to_bytes, read_metadata
from worlds import make_label


def repacked(blob, change):
    """A safetensors file whose header, as text, was changed; the length field agrees."""
    length = struct.unpack("<Q", blob[:8])[0]
    header = change(blob[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + blob[8 + length :]


def change_value(value, rng):
    """Another value somewhere in a JSON document."""
    if isinstance(value, dict) and value:
        key = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: change_value(value[key], rng)}
    if isinstance(value, list) and value:
        at = rng.randrange(len(value))
        return [*value[:at], change_value(value[at], rng), *value[at + 1 :]]
    odd = [None, True, -1, 0, 1, 7, 2**63, 1e308, float("nan"), "", "x", "F64", "I32", [], {}, [1, 2], "a" * 64]
    if isinstance(value, int) and not isinstance(value, bool):
        odd += [value + 1, value - 1, float(value), str(value)]
    return rng.choice(odd)


def mutate(blob, rng):
    """One of the ways in which a label can be damaged or forged by somebody who does not compute the checksum anew."""
    match rng.randrange(6):
        case 0:  # bits
            data = bytearray(blob)
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            return bytes(data)
        case 1:  # bytes dropped, added, moved
            first, last = sorted(rng.randrange(len(blob)) for _ in range(2))
            part = rng.choice([b"", rng.randbytes(rng.randint(1, 9)), bytes(last - first), blob[first:last][::-1]])
            return blob[:first] + part + blob[last:]
        case 2:  # the length field
            return struct.pack("<Q", rng.choice([0, 1, 2**31, 2**64 - 1, rng.randrange(len(blob) * 2)])) + blob[8:]
        case 3:  # the header
            return repacked(blob, lambda header: json.dumps(change_value(json.loads(header), rng)).encode())
        case 4:  # the metadata
            metadata = change_value(read_metadata(blob), rng)
            return save(load(blob), metadata={"mll": json.dumps(metadata)})
        case _:  # a tensor
            tensors = dict(load(blob))
            name = rng.choice(sorted(tensors))
            array = tensors[name].copy()
            with np.errstate(over="ignore"):
                array.flat[rng.randrange(array.size)] += rng.choice([1, 2, 100])
            tensors[name] = rng.choice([array, array, array[:-1], array.astype(np.float64), array.reshape(-1)])
            return save({key: np.ascontiguousarray(value) for key, value in tensors.items()}, metadata=text_of(blob))


def text_of(blob):
    return {"mll": json.dumps(read_metadata(blob))}


def test_ten_thousand_mutated_labels_are_refused_or_mean_the_same():
    label = make_label(
        GRAPH,
        domain_names=("icon", "photo"),
        domain_hits=[[1, 2, 0, 0, 0, 5, 1], [6, 3, 0, 3, 0, 5, 1]],
        domain_support=[[2, 5, 0, 1, 2, 5, 4], [8, 5, 0, 9, 3, 5, 6]],
    )
    blob, rng = label_to_bytes(label), random.Random(0)
    refused = 0
    for _ in range(10_000):
        try:
            mutated = label_from_bytes(mutate(blob, rng))
        except LabelError:
            refused += 1
            continue
        assert mutated == label
    assert refused > 9_000

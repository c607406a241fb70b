"""Image datasets on the tiny Hub: parquet and WebDataset, in shards, with pictures that say what they show."""

from __future__ import annotations

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub.utils import _http

import tiny_hub
from graph import gathering
from hub_worlds import Clock
from mll_hf.hub import connection
from worlds import picture

CONTENT = {"bytes": pa.binary(), "path": pa.string()}


@pytest.fixture
def no_waits(monkeypatch):
    """Waits that take no time: ours, the client's and those of datasets."""
    from datasets import config

    clock = Clock()
    for module in (connection, _http, gathering):
        monkeypatch.setattr(module, "time", clock)
    for name in ("READ_RETRY", "READ_SERVER_UNAVAILABLE_RETRY", "READ_RATE_LIMIT_RETRY", "OPEN_RETRY"):
        monkeypatch.setattr(config, f"STREAMING_{name}_INTERVAL", 0)
    for name in ("READ", "OPEN"):
        monkeypatch.setattr(config, f"STREAMING_{name}_MAX_RETRIES", 1)
    return clock


def parquet(rows, label="label", names=None, image="image"):
    """A parquet file of (picture, label) as `datasets` writes it; `names` makes labels a ClassLabel."""
    kind = pa.int64() if names or (rows and isinstance(rows[0][1], int)) else pa.string()
    feature = {"names": list(names), "_type": "ClassLabel"} if names else {"dtype": str(kind), "_type": "Value"}
    features = {image: {"_type": "Image"}, label: feature}
    schema = pa.schema(
        [(image, pa.struct(list(CONTENT.items()))), (label, kind)],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    table = pa.Table.from_pylist([{image: {"bytes": content, "path": None}, label: of} for content, of in rows], schema)
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=3)
    return file.getvalue()


def tar(rows, first=0):
    """A shard of a WebDataset of (picture, label)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number, (content, label) in enumerate(rows, first):
            for kind, data in (("png", content), ("cls", str(label).encode())):
                entry = tarfile.TarInfo(f"s{number:07}.{kind}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def put_features(repo_id, rows, features, shards=2, split="train", files=()):
    """A dataset of parquet files with any features, as `datasets` writes them; returns its commit."""
    import datasets

    content = {}
    for i, part in enumerate(in_shards(rows, shards)):
        file = io.BytesIO()
        datasets.Dataset.from_list(part, features=datasets.Features(features)).to_parquet(file)
        content[f"data/{split}-{i:05}-of-{shards:05}.parquet"] = file.getvalue()
    return tiny_hub.HUB.put("dataset", repo_id, {**content, **dict(files)})


def in_shards(rows, count):
    return [rows[len(rows) * i // count : len(rows) * (i + 1) // count] for i in range(count)]


def put_parquet(repo_id, rows, shards=3, split="test", files=(), **kind):
    """A dataset of parquet files on the Hub; returns its commit."""
    shards = min(shards, len(rows))  # datasets cannot read a file without rows
    parts = in_shards(rows, shards)
    content = {f"data/{split}-{i:05}-of-{shards:05}.parquet": parquet(part, **kind) for i, part in enumerate(parts)}
    return tiny_hub.HUB.put("dataset", repo_id, {**content, **dict(files)})


def put_tars(repo_id, rows, shards=2, names=None, split="test"):
    """A dataset as CLIP benchmark has them; returns its commit."""
    parts = in_shards(rows, shards)
    files = {f"{split}/{i}.tar": tar(part, i * 1000) for i, part in enumerate(parts)}
    files |= {f"{split}/nshards.txt": f"{shards}\n".encode()}
    if names:
        files["classnames.txt"] = "".join(f"{name}\n" for name in names).encode()
    return tiny_hub.HUB.put("dataset", repo_id, files)


def pictures(labels, start=0):
    """One picture for each label, all different."""
    return [(picture(number % 200, start + number), label) for number, label in enumerate(labels)]


def streamed(path=""):
    """Requests for files in which a text occurs."""
    return [r for r in tiny_hub.HUB.requests if r.startswith("GET") and "/resolve/" in r and path in r]

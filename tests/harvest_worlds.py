"""Image datasets on the tiny Hub: parquet and WebDataset, in shards, with pictures that say what they show."""

from __future__ import annotations

import io
import tarfile

import pytest
from huggingface_hub.utils import _http

import tiny_hub
from graph import gathering
from hub_worlds import Clock
from mll_hf.hub import connection
from worlds import picture


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


def put_parquet(repo_id, rows, shards=3, split="test", files=(), label="label", names=None):
    """A dataset of (picture, label) on the Hub; `names` makes labels a ClassLabel. Returns its commit."""
    import datasets

    kind = datasets.ClassLabel(names=list(names)) if names else datasets.Value("string")
    rows = [{"image": {"bytes": content, "path": None}, label: of} for content, of in rows]
    features = {"image": datasets.Image(), label: kind}
    shards = min(shards, len(rows))  # datasets cannot read a file without rows
    return put_features(repo_id, rows, features, shards, split, files)


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

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.errors import GraphError
from mll_hf.graph.concepts import load_graph
from mll_hf.graph.probes import load_probes
from mll_hf.utils import files
from worlds import (
    CAR,
    CAT,
    CORGI,
    DOG,
    PEAK_MEMORY,
    Probe,
    examples,
    make_graph,
    write_graph_folder,
)

PROBES = [
    Probe("corgi", CORGI),  # 0
    Probe("car", CAR),  # 1
    Probe("dog", DOG, style="icon"),  # 2
    Probe("cat", CAT, style=None),  # 3
    Probe("corgi", CORGI),  # 4
]


def load(folder, images_per_concept=75):
    return load_probes(load_graph(folder), folder, images_per_concept)


def write_table(folder, name="images.parquet", **columns):
    pq.write_table(pa.table(columns), folder / name)


def rows_of(probes, concept):
    return probes.rows[probes.images_of(concept)].tolist()


def contents(probes, batch_size=2, start=0):
    images = np.arange(start, len(probes))
    return [content for batch in probes.iter_image_bytes(batch_size, images) for content in batch]


# ---- which images test which concept


def test_images_count_for_all_concepts_above_them(tmp_path):
    probes = load(write_graph_folder(tmp_path, PROBES))
    assert [probes.images_of(v).tolist() for v in range(7)] == [
        [0, 2, 3, 4],  # animal: the corgis count once, though two ways lead up from them
        [1],  # car
        [3],  # cat
        [0, 4],  # corgi
        [0, 2, 4],  # dog
        [0, 3, 4],  # pet
        [1],  # vehicle
    ]
    assert probes.nodes.tolist() == [CORGI, CAR, DOG, CAT, CORGI]
    assert probes.domain_names == ("icon", "photo", "unknown")
    assert probes.domains.tolist() == [1, 1, 0, 2, 1]
    assert len(probes) == 5


SOURCES = st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=40)


@examples
@given(SOURCES, st.integers(1, 45))
def test_samples_are_balanced_and_capped(sources, cap):
    with tempfile.TemporaryDirectory() as name:
        folder = write_graph_folder(Path(name), [Probe("car", CAR, source=s, content=b"x") for s in sources])
        sample = rows_of(load(folder, cap), CAR)
    assert len(sample) == min(cap, len(sources))
    taken, available = Counter(sources[row] for row in sample), Counter(sources)
    for source in available:
        exhausted = taken[source] == available[source]
        assert exhausted or taken[source] >= max(taken.values()) - 1


def test_the_sample_is_the_same_everywhere(tmp_path):
    # labels of the same revision and cap must rest on the same images, whoever measured them
    folder = write_graph_folder(tmp_path, [Probe("car", CAR, source=str(i % 2), content=b"x") for i in range(30)])
    assert rows_of(load(folder, 6), CAR) == [11, 14, 17, 18, 19, 20]


# ---- files


def test_files_may_differ_in_their_columns(tmp_path):
    write_graph_folder(tmp_path)
    texts = pa.array(["car", "cat"]).cast(pa.dictionary(pa.int32(), pa.string()))
    write_table(tmp_path, node=texts, style=texts, image=pa.array([b"a", b"b"], pa.large_binary()))
    write_table(tmp_path, "images-2.parquet", image=[b"c"], node=["corgi"], vendor=["x"])
    probes = load(tmp_path)
    assert [probes.domain_names[d] for d in probes.domains] == ["unknown", "car", "cat"]  # images-2 comes first
    assert contents(probes) == [b"c", b"a", b"b"]


def test_images_as_datasets_writes_them(tmp_path):
    write_graph_folder(tmp_path)
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = pa.array([{"bytes": b"a", "path": "a.png"}, {"bytes": None, "path": "b.png"}, None], struct)
    write_table(tmp_path, node=["car", "car", "cat"], image=images)
    assert contents(load(tmp_path)) == [b"a", None, None]


def test_digest_is_that_of_the_images(tmp_path):
    first = load(write_graph_folder(tmp_path / "a", PROBES))
    assert re.fullmatch("[0-9a-f]{40}", first.digest)
    assert first.location == "a"
    assert load(write_graph_folder(tmp_path / "b", PROBES)).digest == first.digest
    assert load(write_graph_folder(tmp_path / "c", PROBES[1:])).digest != first.digest
    with (tmp_path / "b" / "images.parquet").open("rb") as file:
        (tmp_path / "b" / "images2.parquet").write_bytes(file.read())
    assert load(tmp_path / "b").digest != first.digest


def test_digests_of_files_are_cached(tmp_path, monkeypatch):
    folder = write_graph_folder(tmp_path / "graph", PROBES)
    file, read, hashed = folder / "images.parquet", hashlib.file_digest, []
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: (hashed.append(file.name), read(file, name))[1])

    def revision(reads):
        hashed.clear()
        found = load(folder).digest
        assert len(hashed) == reads
        return found

    fresh = revision(reads=1)
    assert revision(reads=1) == fresh  # the file was changed a moment ago, so its digest is not cached yet
    monkeypatch.setattr(files, "_MIN_AGE_NS", -1)
    assert revision(reads=1) == fresh
    assert revision(reads=0) == fresh
    content, status = file.read_bytes(), file.stat()
    file.write_bytes(content[:9] + bytes([content[9] ^ 1]) + content[10:])
    assert revision(reads=1) != fresh  # of the same size
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert revision(reads=1) == fresh  # with the same size and time of modification as before
    for entry in Path(constants.HF_ASSETS_CACHE).rglob("*"):
        if entry.is_file():
            entry.write_text("damaged")
    assert revision(reads=1) == fresh


def test_a_concept_without_rivals_is_not_tested_in_a_graph_below_another(tmp_path):
    probes = [Probe(node, 0) for node in ("letter", "a", "b", "a", "b")]
    above, alone = {"letter": ("symbol",)}, {"letter": ()}
    kinds = {"a": ("letter",), "b": ("letter",)}
    tested = load(write_graph_folder(tmp_path / "below", probes, make_graph(above | kinds)))
    assert [tested.images_of(v).tolist() for v in range(3)] == [[0, 2], [1, 3], []]
    assert tested.rows.tolist() == [1, 2, 3, 4]
    whole = load(write_graph_folder(tmp_path / "alone", probes, make_graph(alone | kinds)))
    assert np.diff(whole.offsets).tolist() == [2, 2, 5]


@examples
@given(data=st.data())
def test_batches_contain_all_images_in_order(data):
    files = data.draw(st.lists(st.integers(0, 150), min_size=1, max_size=3).filter(sum))
    cap, batch_size = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 70))
    with tempfile.TemporaryDirectory() as name:
        folder, row = write_graph_folder(Path(name)), 0
        (folder / "images.parquet").unlink()
        for at, count in enumerate(files):
            images = pa.array([b"%d" % n for n in range(row, row + count)], pa.binary())
            table = pa.table({"image": images, "node": pa.array(["car"] * count, pa.string())})
            pq.write_table(table, folder / f"images{at}.parquet", row_group_size=data.draw(st.integers(1, 90)))
            row += count
        probes = load(folder, cap)
        images = np.array(sorted(data.draw(st.sets(st.integers(0, len(probes) - 1)))), np.int64)
        batches = list(probes.iter_image_bytes(batch_size, images))
    assert [content for batch in batches for content in batch] == [b"%d" % row for row in probes.rows[images]]
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert all(batches)


MEASURE = """
import sys
from mll_hf.graph.concepts import load_graph
from mll_hf.graph.probes import load_probes
probes = load_probes(load_graph(sys.argv[1]), sys.argv[1], 65535)
total = sum(len(content) for batch in probes.iter_image_bytes(64) for content in batch)
print(len(probes), total, peak_memory())
"""


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    size, peaks = 10_000, []
    for count in (1500, 6000):  # pages hold 1024 values or more
        folder = write_graph_folder(tmp_path / str(count))
        images = pa.array([np.random.default_rng(i).bytes(size) for i in range(count)], pa.binary())
        table = pa.table({"image": images, "node": pa.array(["car"] * count)})
        pq.write_table(table, folder / "images.parquet", row_group_size=count)
        assert pq.ParquetFile(folder / "images.parquet").num_row_groups == 1
        command = [sys.executable, "-c", PEAK_MEMORY + MEASURE, str(folder)]
        read = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        assert [int(number) for number in read[:2]] == [count, count * size]
        peaks.append(int(read[2]))
    assert peaks[1] - peaks[0] < 20_000_000, peaks  # while there are 45 MB more to read


# ---- bad input: one clear line each


def complaint_of(folder):
    with pytest.raises(GraphError) as caught:
        contents(load(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_images(tmp_path):
    write_graph_folder(tmp_path)
    write_table(tmp_path, image=pa.array([], pa.binary()), node=pa.array([], pa.string()))
    assert "no rows" in complaint_of(tmp_path)
    (tmp_path / "images.parquet").unlink()
    assert "no images*.parquet" in complaint_of(tmp_path)
    with pytest.raises(GraphError, match=r"no images\*\.parquet"):
        load_probes(make_graph(), tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"node": ["car"]}, "lacks a column 'image'"),
        ({"image": [b"a"]}, "'node'"),
        ({"image": [b"a"] * 4, "node": ["boat", "car", "ship", "raft"]}, "3 nodes"),
        ({"image": [b"a"], "node": [None]}, "1 nodes"),
        ({"image": [b"a"], "node": [["car"]]}, "not a readable parquet"),
        ({"image": ["a.png"], "node": ["car"]}, "no encoded images"),
        ({"image": [1], "node": ["car"]}, "no encoded images"),
        ({"image": [{"path": "a.png"}], "node": ["car"]}, "no encoded images"),
        ({"image": [b"a"] * 101, "node": ["car"] * 101, "style": [str(i) for i in range(101)]}, "more than 100"),
    ],
)
def test_invalid_image_files(tmp_path, columns, complaint):
    write_graph_folder(tmp_path)
    write_table(tmp_path, **columns)
    assert complaint in complaint_of(tmp_path)


def test_damage_gives_one_line_errors_or_other_images(tmp_path):
    folder = write_graph_folder(tmp_path, [Probe("car", CAR), Probe("cat", CAT)] * 10)
    file = folder / "images.parquet"
    whole = file.read_bytes()
    rng, complaints = np.random.default_rng(0), []
    for at in rng.integers(0, len(whole), 150):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << int(rng.integers(8)))]) + whole[at + 1 :])
        try:
            assert all(content is None or isinstance(content, bytes) for content in contents(load(folder)))
        except GraphError as error:
            complaints.append(str(error))
    assert 20 < len(complaints) < 150
    assert not any("\n" in complaint for complaint in complaints)

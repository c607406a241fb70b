"""The image files of a graph's folder: Parquet, with the columns ``image``, ``node``, and optionally domain and source.

Functions raise a GraphError if a file is missing, damaged or lacks a column.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mll_hf.errors import GraphError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

IMAGE_FILES = "images*.parquet"
DOMAIN_COLUMN = "style"
SOURCE_COLUMNS = ("source", "vendor", "dataset")
UNKNOWN = "unknown"
_BATCH = 64
_MIN_IMAGE_BYTES, _FEW_ROWS = 50, 10_000  # of an image on disk; as many rows are always read
_MAX_TEXT = 2000  # bytes


def image_schema(text_columns: Sequence[str]) -> pa.Schema:
    """Schema of a Parquet file of images and texts for :func:`load_probes`, ``datasets`` and the Hub."""
    import pyarrow as pa

    features = {"image": {"_type": "Image"}, **{name: {"dtype": "string", "_type": "Value"} for name in text_columns}}
    return pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            *((name, pa.string()) for name in text_columns),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )


def image_files(folder: Path) -> tuple[Path, ...]:
    """Image files of a graph's folder, sorted."""
    return tuple(sorted(folder.glob(IMAGE_FILES)))


def read_columns(folder: Path) -> tuple[tuple[Path, ...], dict[str, pa.ChunkedArray]]:
    """Image files of a graph's folder, and columns with node, domain and source of all images."""
    files = image_files(folder)
    if not files:
        raise GraphError(f"no {IMAGE_FILES} here; a graph's folder contains its probe images", folder)
    tables = [_read_texts(path) for path in files]
    import pyarrow as pa

    table = pa.concat_tables(tables)
    if not len(table):
        raise GraphError(f"the {IMAGE_FILES} have no rows; a graph needs probe images", folder)
    return files, {column: table[column] for column in table.column_names}


def iter_images(files: Sequence[Path], rows: NDArray[np.int64]) -> Iterator[bytes | None]:
    """Yield the images of some rows (ascending, over all files); row groups without wanted rows are skipped."""
    end = 0
    for path in files:
        file = _open(path)
        for group in range(file.metadata.num_row_groups):
            first, end = end, end + file.metadata.row_group(group).num_rows
            wanted = rows[(rows >= first) & (rows < end)]
            if not len(wanted):
                continue
            with _parquet_errors(path):
                batches = file.iter_batches(_BATCH, row_groups=[group], columns=["image"], use_threads=False)
                for batch in batches:
                    in_batch = wanted[(wanted >= first) & (wanted < first + batch.num_rows)] - first
                    yield from map(_content, batch.column("image").take(in_batch).to_pylist())
                    first += batch.num_rows
                    if first > wanted[-1]:
                        break


def _open(path: Path, coded: Sequence[str] = ()) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Open a Parquet file; some text columns are read as numbers of distinct texts."""
    with _parquet_errors(path):
        import pyarrow.parquet as pq

        # A small buffer instead of whole column chunks limits memory for files with one large row group.
        return pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False, read_dictionary=coded)


def _content(value: Any) -> bytes | None:  # noqa: ANN401 - bytes, or the struct that ``datasets`` writes
    return value.get("bytes") if isinstance(value, dict) else value


def _read_texts(path: Path) -> pa.Table:
    """Read node, domain and source of each image of one file; UNKNOWN where missing."""
    file = _open(path)
    import pyarrow as pa

    if (rows := file.metadata.num_rows) > max(_FEW_ROWS, path.stat().st_size // _MIN_IMAGE_BYTES):
        raise GraphError(f"has {rows:,} rows, more than images fit in a file of its size", path)
    schema = file.schema_arrow
    if not {"image", "node"} <= set(schema.names):
        raise GraphError("lacks a column 'image' or 'node'; a graph's image files need both", path)
    if not _holds_images(schema.field("image").type):
        raise GraphError("has no encoded images in column 'image'; store the bytes of the image files", path)
    source = next((column for column in SOURCE_COLUMNS if column in schema.names), None)
    wanted = {"node": "node", DOMAIN_COLUMN: DOMAIN_COLUMN, "source": source}
    with _parquet_errors(path):
        names = [column for column in wanted.values() if column and column in schema.names]
        table = _open(path, names).read(columns=names)
        if any(_longest(column) > _MAX_TEXT for column in table.columns):
            raise GraphError(f"has texts of over {_MAX_TEXT:,} bytes besides its images", path)
        missing = pa.nulls(len(table), pa.string())
        texts = {
            name: (table[column].cast(pa.string()) if column in schema.names else missing).fill_null(UNKNOWN)
            for name, column in wanted.items()
        }
        columns = pa.table(texts)
        columns.validate(full=True)  # invalid UTF-8 would fail later
    return columns


def _longest(column: pa.ChunkedArray) -> int:
    """Bytes of the longest text in a column that was read as numbers of distinct texts; 0 if it has none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = (chunk.dictionary for chunk in column.chunks if pa.types.is_dictionary(chunk.type))
    return max((pc.max(pc.binary_length(each)).as_py() or 0 for each in texts), default=0)


def _holds_images(kind: Any) -> bool:  # noqa: ANN401 - pyarrow has no types
    """Whether a column type is bytes, or the struct written by ``datasets``."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        position = kind.get_field_index("bytes")
        return position >= 0 and _holds_images(kind.field(position).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    """Convert errors of pyarrow to a GraphError that names the file."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, LookupError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise GraphError(f"is not a readable parquet file ({reason}); fetch or build it again", path) from None

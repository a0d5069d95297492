"""For pandas, polars, DuckDB, Spark and the Hub's viewer: one Parquet file, a row a face."""

from pathlib import Path

from twofold.cache.errors import CacheError
from twofold.cache.export.faces import ExportedFaces
from twofold.cache.export.numpy_files import recipes_json

MARK = b"twofold-recipes"  #: the entry of the file's metadata that holds how the features were made


def write_parquet(path: Path, faces: ExportedFaces) -> None:
    """Columns `key`, the labels (null for none) and a list of float32 for each stream; a row group a block.

    float32, since few readers know Parquet's halves; zstd takes back most of what that costs. Raises CacheError with
    the line that installs pyarrow.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet as pq
    except ImportError:
        raise CacheError("a Parquet file needs the package pyarrow: pip install pyarrow") from None
    schema = pa.schema(
        [pa.field("key", pa.string(), nullable=False), *(pa.field(name, pa.string()) for name in faces.labels),
         *(pa.field(name, pa.list_(pa.float32(), file.dim))
           for name, file in zip(faces.streams, faces.files, strict=True))],
        metadata={MARK: recipes_json(faces).encode()})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for span in faces.spans():
            keys = faces.keys[span]
            columns = [pa.array(keys, pa.string()),
                       *(pa.array([text or None for text in texts[span]], pa.string())
                         for texts in faces.labels.values())]
            for file in faces.files:
                values = pa.array(file.read(keys, dtype="float32").ravel())
                columns.append(pa.FixedSizeListArray.from_arrays(values, file.dim))
            writer.write_batch(pa.record_batch(columns, schema=schema))


def is_parquet_of_ours(path: Path) -> bool:
    """True for a file that `write_parquet` wrote. Raises CacheError without pyarrow."""
    try:
        from pyarrow import parquet as pq
    except ImportError:
        raise CacheError("a Parquet file needs the package pyarrow: pip install pyarrow") from None
    return MARK in (pq.read_metadata(path).metadata or {})

"""Parquet shards in the image layout of Hugging Face, named as the hub names them."""

import itertools
import json
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from imagemint.client.images import ImageBatch
from imagemint.dataset.formats import SPLIT, NewFiles
from imagemint.dataset.pictures import CAPTION, REJECTED, SUFFIXES, Picture, encode_batch
from imagemint.dataset.plan import Plan, Shard

# Small groups let readers fetch single images; the hub's own tools write 100 images in a group.
_ROWS_IN_GROUP = 100


def name_file(plan: Plan, shard: Shard) -> str:
    """Returns the file of a shard. Its number determines its range of indices."""
    return f"data/{SPLIT}-{shard.number:05d}-of-{plan.num_shards:05d}.parquet"


def name_joined(plan: Plan) -> None:
    """Returns None: each file belongs to one shard."""
    del plan


def match_files() -> str:
    """Returns the pattern of the files."""
    return f"data/{SPLIT}-*"


def write(plan: Plan, shard: Shard, batches: Iterable[ImageBatch], files: NewFiles) -> None:
    """Writes the images of a shard."""
    batches = iter(batches)
    first = next(batches)
    schema = make_schema(plan, tuple(first.scores.by_name()) if first.scores else ())
    with (
        files.create(name_file(plan, shard)) as file,
        pq.ParquetWriter(
            file,
            schema,
            # Pictures are compressed already.
            compression={"image.bytes": "NONE", "image.path": "SNAPPY", "serial": "SNAPPY"},
            use_dictionary=["label"] if plan.class_labels else False,
            write_page_index=True,
        ) as writer,
    ):
        rows: list[Picture] = []
        for batch in itertools.chain([first], batches):
            for picture in encode_batch(plan, batch):
                rows.append(picture)
                if len(rows) == _ROWS_IN_GROUP:
                    writer.write_table(_make_table(plan, schema, rows))
                    rows = []
        if rows:
            writer.write_table(_make_table(plan, schema, rows))


def make_schema(plan: Plan, scores: Sequence[str]) -> pa.Schema:
    """Returns the schema, with the features that Hugging Face datasets reads from its metadata.

    Args:
        plan: the plan.
        scores: names of the scores of each image; empty without a filter.
    """
    fields = [pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))]
    features: dict[str, object] = {"image": {"_type": "Image"}}
    if plan.class_labels:
        fields.append(pa.field("label", pa.int64()))
        features["label"] = {"names": list(plan.class_labels), "_type": "ClassLabel"}
    if plan.captions:
        fields.append(pa.field(CAPTION, pa.string()))
        features[CAPTION] = {"dtype": "string", "_type": "Value"}
    fields += [pa.field("serial", pa.string()), pa.field("index", pa.uint64())]
    features["serial"] = {"dtype": "string", "_type": "Value"}
    features["index"] = {"dtype": "uint64", "_type": "Value"}
    for name in scores:
        fields.append(pa.field(name, pa.float32()))
        features[name] = {"dtype": "float32", "_type": "Value"}
    if scores:
        fields.append(pa.field(REJECTED, pa.int64()))
        features[REJECTED] = {"dtype": "int64", "_type": "Value"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(fields, metadata=metadata)


def _make_table(plan: Plan, schema: pa.Schema, rows: list[Picture]) -> pa.Table:
    suffix = SUFFIXES[plan.image_format]
    data = pa.array([row.data for row in rows], pa.binary())
    paths = pa.array([f"{plan.spell_index(row.index)}.{suffix}" for row in rows], pa.string())
    columns = [pa.StructArray.from_arrays([data, paths], ["bytes", "path"])]
    if plan.class_labels:
        columns.append(pa.array([row.class_id for row in rows], pa.int64()))
    if plan.captions:
        columns.append(pa.array([row.caption for row in rows], pa.string()))
    columns.append(pa.array([row.serial for row in rows], pa.string()))
    columns.append(pa.array([row.index for row in rows], pa.uint64()))
    for scored in schema.names[len(columns) :]:
        values = [row.scores[scored] for row in rows if row.scores]
        columns.append(pa.array(values, schema.field(scored).type))
    return pa.table(columns, schema=schema)

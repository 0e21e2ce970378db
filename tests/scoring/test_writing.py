"""How the finished table is laid out."""

import io

import pyarrow as pa
import pyarrow.parquet as pq

from cxrbatch.results.columns import table_schema
from cxrbatch.scoring.table_writer import table_writer


def test_few_rows_can_be_looked_up_without_reading_the_others() -> None:
    schema = table_schema(("Normal", "Ill"), heatmap_size=2)
    rows = 10_000
    values = {
        "path": [f"study/image{number}.dcm" for number in range(rows)],
        "outcome": ["scored"] * rows,
        "p_Normal": [number / rows for number in range(rows)],
        "image_flags": [["lateral"]] * rows,
    }
    columns = [
        pa.array(values[field.name], field.type)
        if field.name in values
        else pa.nulls(rows, field.type)
        for field in schema
    ]
    file = io.BytesIO()
    with table_writer(file, schema) as writer:
        writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    group = pq.ParquetFile(file).metadata.row_group(0)
    found = [group.column(number) for number in range(group.num_columns)]
    assert all(column.has_offset_index for column in found)
    with_dictionary = {column.path_in_schema for column in found if column.has_dictionary_page}
    assert {"outcome", "image_flags.list.element"} <= with_dictionary
    assert not {"path", "p_Normal", "image_hash", "heatmaps"} & with_dictionary

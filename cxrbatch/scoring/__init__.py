"""From an archive to a results table.

In: a folder or file, a checkpoint, options. Out: a Parquet table with a row for each frame of each
file, and a `Summary`. Files become rows and inputs in the processes of `workers`; their batches are
scored by `model.predictor.Predictor`.

    score          the public call `score` with its bar, and what the command calls
    run            a run's options, progress and summary
    engine         plans a run, scores its missing shards, finishes the table
    plan           the plan on disk, the fingerprint of a run, the log of faulty files
    archive        the walk over an archive, and its manifest on disk
    file_reader    one file to rows and inputs, and the image of a row once more
    dataset        the DataLoader over what is read, and scored rows
    shard_writer   files read by workers, scored, and written in shards
    table_writer   files of shards, and the finished table
    existing_tables  rows that an update keeps, tables of parts joined to one
    ray_engine     shards scored by Ray, on a cluster or on this machine
    ray_worker     the work of one Ray actor
    int8           calibration and check of 8-bit arithmetic
"""

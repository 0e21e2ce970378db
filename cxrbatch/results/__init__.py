"""From a scored archive to figures: the results table, labels and truth, statistics with intervals.

A results table (`Row` and `ImageScores` -> Parquet) and labels flow in; DataFrames and an
`Evaluation` flow out. Nothing here imports torch; pandas is imported by readers of results alone,
never while an archive is scored.

    columns        the data contract: names and types of columns, rows to columns
    patient_keys   keyed hashes that stand for patients and studies, and the secret for them
    table          opens a table and reads its rows: `open_table`
    bounded, pages Parquet files that may be hostile, read in bounded memory
    frames         tables and labels as DataFrames: `load_results`, `heatmaps`, `load_labels`
    label_names    what names mean: of columns, of classes, in several languages
    label_rows     rows of labels in CSV of usual separators and encodings
    label_tables   rows of labels in Excel and Parquet files
    label_checks   these rows, checked, with columns of one meaning
    label_files    options of reading labels; a file of any form to labels
    label_lists    labels by path as a list of files
    merging        classes of labels that stand for several classes of the model
    label_joining  labels joined with the rows of a table
    truth          the true classes of a table, from labels, its own column or class folders;
                   labels from class folders
    counting       which scored images count; equal and nearly equal images
    analysis       checked scores with their truth: the images that are analysed, and the flow
    evaluation     `evaluate` and `headline`: the figures of a table against the truth
    subgroups      the figures of subgroups of images, such as those of one manufacturer
    gated          what the input gate flagged, and the figures of the other images
    external       the figures that a checkpoint's card records of an evaluation elsewhere
    figures        these figures as plain values, and as a DataFrame
    describing     these figures, and the counts of the flow, as lines for a terminal
    statistics     the calculation of the figures from arrays
"""

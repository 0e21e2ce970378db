"""From scores to truth: the table, the labels it is compared with, and the statistics."""

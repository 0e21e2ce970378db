"""From an archive to a results table: the walk, the loader and the engine that joins them."""

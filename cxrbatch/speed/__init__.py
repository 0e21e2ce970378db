"""How fast a machine could score an archive, and how fast it does."""

"""Statistics of scores against truth: pure functions on arrays."""

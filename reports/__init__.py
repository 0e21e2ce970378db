"""A results table as pages and figures that can be filed and shared."""

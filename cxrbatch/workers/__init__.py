"""Processes that read hostile files: they may crash, hang or run out of memory."""

"""Puts the readers that crash and hang within reach of this folder's tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "scoring"))

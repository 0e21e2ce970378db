"""Score archives of chest radiographs into one table, a row per file.

Importing this package imports none of its parts; take what is needed from where it is defined, as
in `from cxrbatch.reading.radiograph import read_radiographs`. Research software: not a medical
device.
"""

from cxrbatch.version import VERSION as __version__

__all__ = ["__version__"]

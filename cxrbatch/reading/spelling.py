"""Words as people spell them, brought to one form.

It imports nothing but the standard library, as the process that scores imports it at its start.
"""

import unicodedata

# Letters that do not fall apart into a base letter and a mark.
_BASE_LETTERS = str.maketrans("ŁØĐÆŒƏ", "LODEOE")


def plain_capitals(written: str) -> str:
    """Text in capitals without accents, in the plain forms of its letters and digits."""
    parts = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", written).upper())
    plain = "".join(c for c in parts if unicodedata.category(c) != "Mn")
    return plain.translate(_BASE_LETTERS)

"""Every name has one text and every text one name."""

import random

import pytest

from cxrbatch.files import path_to_text, text_to_path, text_to_place

# What a name may be made of; drawn from, so that near-collisions are common.
PIECES = [b"\\", b"x", b"\\x", b"ff", b"c3", b"\xff", b"\xc3", b"\xa9", "é".encode(), b"/", b"a"]
PIECES += [b"!", b"!/", b"\\x21", b"\0"]
PIECES += ["\U0001f642".encode(), b"\xed\xb2\x80", b"\xf0\x9f", b"\n", b" ", b"\x01", b"\x80"]


def names(count: int) -> list[bytes]:
    rng = random.Random(11)
    mixed = [b"".join(rng.choices(PIECES, k=rng.randint(0, 6))) for _ in range(count // 2)]
    return mixed + [rng.randbytes(rng.randint(0, 5)) for _ in range(count // 2)]


def test_every_name_comes_back() -> None:
    for name in names(20_000):
        text = path_to_text(name)
        assert text_to_path(text.encode("utf-8").decode("utf-8")) == name


def test_no_two_names_have_one_text() -> None:
    distinct = set(names(20_000))
    assert len({path_to_text(name) for name in distinct}) == len(distinct)


def test_every_single_byte_and_pair_comes_back() -> None:
    every = [bytes([a]) for a in range(256)]
    every += [bytes([a, b]) for a in range(256) for b in range(256)]
    texts = [path_to_text(name) for name in every]
    assert len(set(texts)) == len(every)
    assert [text_to_path(text) for text in texts] == every


def test_a_text_is_a_paths_only_text_or_is_refused() -> None:
    rng = random.Random(12)
    letters = ["\\", "x", "f", "c", "3", "a", "9", "é", "/"]
    read = 0
    for _ in range(20_000):
        text = "".join(rng.choices(letters, k=rng.randint(1, 9)))
        try:
            name = text_to_path(text)
        except ValueError:
            continue
        read += 1
        assert path_to_text(name) == text
    assert read > 1000


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"", ""),
        (b"a/b c.dcm", "a/b c.dcm"),
        ("Müller/肺.png".encode(), "Müller/肺.png"),
        (b"M\xfcller.png", "M\\xfcller.png"),
        (b"back\\slash", "back\\\\slash"),
        (b"\\xff", "\\\\xff"),
        (b"\xff\\\xfe", "\\xff\\\\\\xfe"),
        (b"/data/\xe9", "/data/\\xe9"),
        (b"odd!/film!", "odd\\x21/film!"),
        (b"a\0b", "a\\x00b"),
    ],
)
def test_known_texts(name: bytes, text: str) -> None:
    assert path_to_text(name) == text
    assert text_to_path(text) == name


@pytest.mark.parametrize(
    "text",
    ["\\", "a\\b", "\\x", "\\xf", "\\xFF", "\\xgg", "\\\\\\", "\\x41", "\\xc3\\xa9", "\ud800"],
)
def test_texts_that_were_never_written_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"path_to_text|codec"):
        text_to_path(text)


def test_a_member_is_never_taken_for_a_file_or_another_member() -> None:
    rng = random.Random(13)
    pool = names(400)
    places = {(rng.choice(pool), rng.choice([None, *pool])) for _ in range(20_000)}
    texts = {place: path_to_text(*place) for place in places}
    assert len(set(texts.values())) == len(places)
    assert all(text_to_place(text) == place for place, text in texts.items())


def test_known_texts_of_members() -> None:
    assert path_to_text(b"a!/b!.zip", b"/c!/d\0") == "a\\x21/b!.zip!//c\\x21/d\\x00"
    assert text_to_place("export.zip!/") == (b"export.zip", b"")
    with pytest.raises(ValueError, match="path_to_text"):
        text_to_path("export.zip!/film")

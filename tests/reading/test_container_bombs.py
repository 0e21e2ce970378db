"""Containers made to cost time or memory: listed and read in a second, each in a process alone."""

import bz2
import gzip
import io
import lzma
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from makers import make_dicom, make_image_file, ramp

GIGABYTES = 4
MEASURED = """
import sys, time
from pathlib import Path
from cxrbatch.reading.radiograph import iterate_member, read_radiographs
from cxrbatch.scoring.archive import Walk
import pydicom, PIL.Image

def peak():
    # Not ru_maxrss, which a process inherits from the one that started it.
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x]
    return int(line.split()[1])

before = peak()
start = time.process_time()
outcomes = []
for found in Walk(sys.argv[1]):
    if found.fault:
        outcomes.append(found.fault.outcome)
        continue
    path = sys.argv[1].encode()
    readings = (
        read_radiographs(path)
        if found.member is None
        else iterate_member(path, found.member, found.offset)
    )
    outcomes += [reading.outcome for reading in readings]
took = time.process_time() - start
grown = (peak() - before) / 1024
print(took, grown, *outcomes)
"""


def deflated_zeros(head: bytes, *, gigabytes: int = GIGABYTES) -> tuple[bytes, int, int]:
    """A raw deflate stream of `head` and zeros, its inflated size and a checksum that is wrong."""
    packer = zlib.compressobj(9, wbits=-15)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    end = packer.flush()
    return start + block * (gigabytes << 10) + end, len(head) + (gigabytes << 30), 0


def zip_of(entries: list[tuple[bytes, bytes, int]], *, count: int | None = None) -> bytes:
    """A zip of deflated members: name, packed content and claimed size, checksums 0."""
    body, directory = b"", b""
    for name, packed, size in entries:
        extra, claims = b"", (len(packed), size)
        if size >= 0xFFFFFFFF:
            extra, claims = struct.pack("<2HQ", 1, 8, size), (len(packed), 0xFFFFFFFF)
        fields = struct.pack("<5H3L", 20, 0, 8, 0, 0, 0, *claims)
        lengths = struct.pack("<2H", len(name), len(extra))
        place = struct.pack("<3H2L", 0, 0, 0, 0, len(body))
        directory += b"PK\1\2" + struct.pack("<H", 20) + fields + lengths + place + name + extra
        body += b"PK\3\4" + fields + struct.pack("<2H", len(name), 0) + name + packed
    claimed = len(entries) if count is None else count
    end = struct.pack("<4H2LH", 0, 0, claimed, claimed, len(directory), len(body), 0)
    return body + directory + b"PK\5\6" + end


def gzip_of(packed: bytes) -> bytes:
    return b"\x1f\x8b\x08" + bytes(6) + b"\xff" + packed + bytes(8)


def tar_header(name: bytes, *, size: bytes = b"0", form: bytes = b"0", rest: bytes = b"") -> bytes:
    """A header; `size` is the field's text or its 12 bytes."""
    front = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size.rjust(12, b"0")
    back = (form + bytes(100) + b"ustar\x0000").ljust(512 - 156, b"\0")
    back = back[: len(back) - len(rest)] + rest
    front += b"00000000000\0"
    total = sum(front) + sum(back) + 8 * 32
    return front + b"%06o\0 " % total + back


def zip_member_of_zeros() -> bytes:
    dicom = make_dicom(ramp(), elements={0x00280010: ("US", 9000), 0x00280011: ("US", 9000)})
    packed, size, _ = deflated_zeros(dicom)
    return zip_of([(b"film", packed, size)])


def zip_claiming_within_the_limit() -> bytes:
    """A radiograph of 150 MB that is nearly all zeros, in a megabyte."""
    elements = {0x00280010: ("US", 9000), 0x00280011: ("US", 9000)}
    dicom = make_dicom(ramp(), elements=elements)
    dicom = dicom.replace(struct.pack("<L", 2 * ramp().size), struct.pack("<L", 2 * 9000 * 9000))
    packed, _, _ = deflated_zeros(dicom, gigabytes=1)
    return zip_of([(b"film", packed, 200_000_000)])


def overlapping_zip() -> bytes:
    """Every entry of the directory leads to one and the same member (Fifield's bomb)."""
    packed, size, _ = deflated_zeros(make_image_file(ramp(), "PNG"), gigabytes=1)
    whole = zip_of([(b"film", packed, size)])
    at = whole.rindex(b"PK\1\2")
    entry, end = whole[at:-22], whole[-22:]
    head = end[:8] + struct.pack("<2H", 65535, 65535)
    return whole[:at] + entry * 65535 + head + struct.pack("<L", 65535 * len(entry)) + end[16:]


def zip_within_zip() -> bytes:
    packed, size, _ = deflated_zeros(b"PK\3\4")
    return zip_of([(b"inner.zip", packed, size)] * 3)


def zip_claiming_exabytes() -> bytes:
    packed = zlib.compress(make_image_file(ramp(), "PNG"))[2:-4]
    return zip_of([(b"film", packed, (1 << 64) - 1), (b"other", packed, 1 << 40)])


def gzip_of_zeros() -> bytes:
    return gzip_of(deflated_zeros(b"")[0])


def compressed_tar_of_zeros() -> bytes:
    return gzip_of(deflated_zeros(tar_header(b"film", size=b"77777777777"))[0])


def compressed_tar_of_headers() -> bytes:
    """One header, repeated for 4 GB: empty members without end."""
    packer = zlib.compressobj(9, wbits=-15)
    header = tar_header(b"film")
    start = packer.compress(header) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(header * 2000) + packer.flush(zlib.Z_FULL_FLUSH)
    return gzip_of(start + block * (GIGABYTES << 10) + packer.flush())


def gzip_in_crumbs() -> bytes:
    return gzip.compress(tar_header(b"film") + bytes(1024)) + gzip.compress(b"") * 1_000_000


def film_of_zeros() -> bytes:
    """The header of a radiograph of 150 MB, and zeros without end."""
    elements = {0x00280010: ("US", 9000), 0x00280011: ("US", 9000)}
    return make_dicom(ramp(), elements=elements)


def gzip_film() -> bytes:
    return gzip_of(deflated_zeros(film_of_zeros())[0])


def bzip2_film() -> bytes:
    """A stream of 45 zeros MB is 45 bytes, and may follow itself."""
    return bz2.compress(film_of_zeros()) + bz2.compress(bytes(45 << 20)) * (GIGABYTES << 5)


def xz_film() -> bytes:
    return lzma.compress(film_of_zeros() + bytes(300 << 20), preset=0)


def bzip2_tar_of_headers() -> bytes:
    return bz2.compress(tar_header(b"film") * 80_000) * 60


def xz_with_a_huge_dictionary() -> bytes:
    data = bytearray(lzma.compress(make_image_file(ramp(), "PNG")))
    # The block header follows the 12 bytes of the stream header; its filter's one property byte
    # is the size of the dictionary, 40 for 4 GiB less a byte.
    assert data[12:16] == b"\x02\0\x21\x01"
    data[16] = 40
    data[20:24] = struct.pack("<L", zlib.crc32(data[12:20]))
    return bytes(data)


def bzip2_in_crumbs() -> bytes:
    return bz2.compress(tar_header(b"film") + bytes(1024)) + bz2.compress(b"") * 1_000_000


def gzip_within_gzip() -> bytes:
    return gzip.compress(gzip_of_zeros())


def gzip_with_an_endless_name() -> bytes:
    return b"\x1f\x8b\x08\x08" + bytes(6) + b"a" * (32 << 20)


def tar_claiming_exabytes() -> bytes:
    film = make_image_file(ramp(), "PNG")
    return tar_header(b"film", size=b"\x80" + b"\x7f" * 11) + film.ljust(1 << 16, b"\0")


def tar_with_a_pax_header_of_gigabytes() -> bytes:
    return tar_header(b"film", size=b"77777777777", form=b"x") + bytes(1024)


def tar_with_headers_without_end() -> bytes:
    return tar_header(b"link", size=b"0", form=b"L") * 40_000


def tar_with_a_sparse_map_without_end() -> bytes:
    more = b"\1" + bytes(512 - 483)
    return tar_header(b"film", form=b"S", rest=more) + (bytes(504) + b"\1" + bytes(7)) * 40_000


def tar_with_tiny_pax_records() -> bytes:
    records = b"5 a=\n" * 200_000
    return tar_header(b"p", size=b"%o" % len(records), form=b"x") + records + bytes(4096)


BOMBS: dict[str, tuple[str, Callable[[], bytes], set[str]]] = {
    "zip of zeros": (".zip", zip_member_of_zeros, {"too_large"}),
    "zip within the limit": (".zip", zip_claiming_within_the_limit, {"too_large"}),
    "overlapping zip": (".zip", overlapping_zip, {"too_large", "corrupt"}),
    "zip within zip": (".zip", zip_within_zip, {"not_an_image"}),
    "zip of exabytes": (".zip", zip_claiming_exabytes, {"too_large"}),
    "gzip of zeros": (".tar.gz", gzip_of_zeros, {"not_an_image"}),
    "tar.gz of zeros": (".tgz", compressed_tar_of_zeros, {"too_large"}),
    "tar.gz of headers": (".tgz", compressed_tar_of_headers, {"too_large"}),
    "gzip in crumbs": (".tgz", gzip_in_crumbs, {"corrupt", "not_an_image"}),
    "bzip2 in crumbs": (".tbz2", bzip2_in_crumbs, {"corrupt", "not_an_image"}),
    "gzip with an endless name": (".tgz", gzip_with_an_endless_name, {"truncated"}),
    "gzip of a film": (".dcm.gz", gzip_film, {"too_large"}),
    "bzip2 of a film": (".dcm.bz2", bzip2_film, {"too_large"}),
    "xz of a film": (".dcm.xz", xz_film, {"too_large"}),
    "tar.bz2 of headers": (".tbz2", bzip2_tar_of_headers, {"too_large"}),
    "xz with a huge dictionary": (".png.xz", xz_with_a_huge_dictionary, {"too_large"}),
    "gzip within gzip": (".gz", gzip_within_gzip, {"not_an_image"}),
    "tar of exabytes": (".tar", tar_claiming_exabytes, {"truncated"}),
    "pax header of gigabytes": (".tar", tar_with_a_pax_header_of_gigabytes, {"too_large"}),
    "headers without end": (".tar", tar_with_headers_without_end, {"corrupt"}),
    "sparse map without end": (".tar", tar_with_a_sparse_map_without_end, {"too_large"}),
    "tiny pax records": (".tar", tar_with_tiny_pax_records, {"corrupt"}),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_a_second(name: str, tmp_path: Path) -> None:
    suffix, make, expected = BOMBS[name]
    bomb = tmp_path / f"bomb{suffix}"
    bomb.write_bytes(make())
    command = [sys.executable, "-c", MEASURED, str(bomb)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    took, grown, *outcomes = done.stdout.split()
    assert outcomes
    assert set(outcomes) <= expected
    assert float(took) < 1.0
    assert float(grown) < 300


def test_the_makers_of_bombs_make_good_containers_too() -> None:
    """What is refused above is refused for what it claims, not for a slip in its making."""
    film = make_image_file(ramp(), "PNG")
    packed = zlib.compress(film)[2:-4]
    with zipfile.ZipFile(io.BytesIO(zip_of([(b"film", packed, len(film))]))) as made:
        (entry,) = made.infolist()
        assert (entry.filename, entry.file_size) == ("film", len(film))
    tar = tar_header(b"film", size=b"%o" % len(film)) + film.ljust(
        -(-len(film) // 512) * 512, b"\0"
    )
    with tarfile.open(fileobj=io.BytesIO(tar + bytes(1024))) as opened:
        member = opened.extractfile("film")
        assert member is not None
        assert member.read() == film

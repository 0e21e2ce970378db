"""What a machine can do at most: decode files, multiply matrices, read its disk, copy to a GPU.

The bare decoder is told where the pixels lie. It reads no DICOM header, checks nothing but
a PNG's checksums and hashes nothing; its image is thrown away.
"""

import io
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import generate_frames
from pydicom.uid import UID
from torch import Tensor, nn

from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.inference import DTYPES, Lanes, choose_precision
from cxrbatch.model.network import model_of
from cxrbatch.model.predictor import Predictor
from cxrbatch.process import available_cores
from cxrbatch.reading.codecs.png import read_chunks
from cxrbatch.reading.sniffing import HEAD_BYTES, sniff

Pixels = NDArray[Any]
Decode = Callable[[bytes], Pixels]
Measure = Callable[[], float]
"""Does some work once, and returns the seconds that one image, operation or byte took."""

# Codecs by the last number of the transfer syntaxes 1.2.840.10008.1.2.4.x.
_CODECS: dict[str, tuple[str, Decode]] = {
    f"1.2.840.10008.1.2.4.{number}": (name, decode)
    for name, numbers, decode in (
        ("JPEG", (50, 51), imagecodecs.jpeg8_decode),
        ("JPEG lossless", (57, 70), imagecodecs.jpeg8_decode),
        ("JPEG-LS", (80, 81), imagecodecs.jpegls_decode),
        ("JPEG 2000", (90, 91), imagecodecs.jpeg2k_decode),
        ("HTJ2K", (201, 202, 203), imagecodecs.jpeg2k_decode),
    )
    for number in numbers
}
_RLE = "1.2.840.10008.1.2.5"
_NATIVE = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1"})
_GEMM_EDGE = {"cpu": 1536, "cuda": 8192}
_COPY_BYTES = 1 << 28
_READ_BYTES = 1 << 27
_BLOCK_BYTES = 1 << 20
_MOST_AT_ONCE = 256
_BATCHES_PER_LANE = 2


@dataclass(frozen=True, slots=True)
class Capacities:
    """Rates of a machine.

    Attributes:
        cores: Cores that this process may run on.
        gemm: Operations per second of a large matrix product, by precision.
        disk: Bytes per second of files read one after the other from the disk; None where the
            system kept them in memory.
        copy: Bytes per second from pinned memory to the GPU; None without a GPU.
    """

    cores: int
    gemm: dict[str, float]
    disk: float | None
    copy: float | None


@dataclass(frozen=True, slots=True)
class Demands:
    """What one image needs, on average over the sample.

    Attributes:
        kinds: Images of the sample by encoding.
        bytes: Size of the file.
        decode: Seconds of reading, codec and a resize by all cores, divided by their images.
        forward: Seconds of the forward pass, in full batches of ready inputs.
        operations: Multiplications and additions of the convolutions.
    """

    kinds: dict[str, int]
    bytes: float
    decode: float
    forward: float
    operations: float


@dataclass(frozen=True, slots=True)
class BareFile:
    """A file with the place of its first frame's pixels, to time reading without parsing a header.

    Attributes:
        path: The file.
        kind: Its encoding in words.
        start: Offset of the pixels, bytes; 0 for PNG and JPEG, which are decoded whole.
        length: Length of the pixels, bytes.
        decode: The codec: encoded bytes to an array of pixels.
    """

    path: Path
    kind: str
    start: int
    length: int
    decode: Decode

    def read(self, size: int) -> None:
        """Read the first frame, decode it, resize one channel to `size` x `size`, discard it."""
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start)
            pixels = self.decode(file.read(self.length))
        if pixels.ndim == 3:
            pixels = np.ascontiguousarray(pixels[..., 0])
        Image.fromarray(pixels).resize((size, size), Image.Resampling.BOX)


def find_pixels(path: Path) -> BareFile | None:
    """Find where in a file the pixels of the first frame lie.

    Args:
        path: A file that was scored before: hostile files must not come here.

    Returns:
        The file with this place; None where it is no DICOM, PNG or JPEG, its encoding has no bare
        decoder, or the frame lies in several fragments.
    """
    with path.open("rb") as file:
        form = sniff(file.read(HEAD_BYTES), size=path.stat().st_size)
    if form in ("png", "jpeg"):
        decode = _png if form == "png" else imagecodecs.jpeg8_decode
        return BareFile(path, form.upper(), 0, path.stat().st_size, decode)
    return _find_in_dicom(path) if form == "dicom" else None


def _find_in_dicom(path: Path) -> BareFile | None:
    header = dcmread(path, force=True)
    syntax = UID(header.file_meta.get("TransferSyntaxUID", ""))
    shape = (int(header.Rows), int(header.Columns))
    stored = header.PixelData
    decode: Decode
    if syntax in _NATIVE and header.SamplesPerPixel == 1 and header.BitsAllocated in (8, 16):
        cells = f"<u{header.BitsAllocated // 8}"
        frame = stored[: shape[0] * shape[1] * header.BitsAllocated // 8]
        kind, decode = "uncompressed", partial(_native, cells=cells, shape=shape)
    elif syntax == _RLE and header.SamplesPerPixel == 1:
        frame = next(generate_frames(stored, number_of_frames=1))
        kind, decode = "RLE", partial(_rle, cells=f"<u{header.BitsAllocated // 8}", shape=shape)
    elif syntax in _CODECS:
        frame = next(generate_frames(stored, number_of_frames=1))
        kind, decode = _CODECS[syntax]
    else:
        return None
    start = path.read_bytes().find(frame)
    if start < 0:
        return None  # in several fragments
    return BareFile(path, f"{kind} DICOM", start, len(frame), decode)


def _png(file: bytes) -> Pixels:
    # Nothing known is faster than to inflate it before libpng sees it. Its checksums are checked
    # there as well as here.
    chunks = read_chunks(io.BytesIO(file), size=len(file), max_samples=sys.maxsize)
    pixels: Pixels = imagecodecs.png_decode(chunks.plain())
    return pixels


def _native(pixels: bytes, *, cells: str, shape: tuple[int, int]) -> Pixels:
    return np.frombuffer(pixels, cells).reshape(shape)


def _rle(pixels: bytes, *, cells: str, shape: tuple[int, int]) -> Pixels:
    return np.frombuffer(imagecodecs.dicomrle_decode(pixels, cells), cells).reshape(shape)


def decode_all(files: Sequence[BareFile], *, size: int, threads: int) -> None:
    """Read, decode and shrink files in several threads at once, each by `BareFile.read`.

    Args:
        files: The files.
        size: Edge of the shrunk images, px.
        threads: Number of threads.

    Raises:
        OSError: A file cannot be read any more.
    """
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(partial(BareFile.read, size=size), files))


def native_precisions(device: torch.device) -> list[str]:
    """Return what the device computes in: "fp32", "bf16" if natively, "fp16" if it is a GPU."""
    bf16 = ["bf16"] if choose_precision("auto", device) == "bf16" else []
    return ["fp32", *bf16, *(["fp16"] if device.type == "cuda" else [])]


def disk_rate(files: Sequence[Path]) -> float | None:
    """Read whole files from the disk, until they have over 128 MiB; return bytes per second.

    The system is asked to drop each from memory first. None if all seem to come from memory still.
    """
    count, seconds, was_dropped = 0, 0.0, False
    block = bytearray(_BLOCK_BYTES)
    for path in dict.fromkeys(files):
        with path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            before = _bytes_fetched()
            start = time.perf_counter()
            while read := file.readinto(block):
                count += read
            seconds += time.perf_counter() - start
            was_dropped |= _bytes_fetched() > before
        if count > _READ_BYTES:
            break
    return count / seconds if was_dropped and seconds else None


def _bytes_fetched() -> int:
    """Return the bytes that this process has had fetched from a disk, as of proc_pid_io(5)."""
    try:
        with open("/proc/self/io") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("read_bytes"))
    except (OSError, StopIteration):
        return 0


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time one call, to the end of the work that it starts on the device."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def operation_measure(precision: str, device: torch.device) -> Measure:
    """Return a function that times a matrix product: seconds per multiplication or addition."""
    edge = _GEMM_EDGE[device.type]
    a = torch.randn(edge, edge).to(device, DTYPES[precision])
    out = torch.empty_like(a)
    return lambda: _seconds(lambda: torch.mm(a, a, out=out), device) / (2 * edge**3)


def copy_measure(device: torch.device) -> Measure:
    """Return a function that times a copy from pinned memory to a GPU: seconds per byte."""
    host = torch.empty(_COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    copied = torch.empty_like(host, device=device)
    return lambda: _seconds(lambda: copied.copy_(host), device) / _COPY_BYTES


def codec_measure(files: Sequence[BareFile], *, size: int, seconds: float) -> Measure:
    """Return a function that times decoding for about `seconds` or 256 files: seconds per file."""
    cores = available_cores()

    def decode(count: int) -> float:
        chosen = [files[number % len(files)] for number in range(count)]
        start = time.perf_counter()
        decode_all(chosen, size=size, threads=cores)
        return (time.perf_counter() - start) / count

    few = 2 * cores
    decode(few)
    enough = min(_MOST_AT_ONCE, max(few, round(seconds / decode(few))))
    return lambda: decode(enough)


def forward_measure(predictor: Predictor) -> Measure:
    """Return a function that times the forward pass of a full, random batch: seconds per image."""
    device, batch_size = predictor.device, predictor.batch_size
    size = predictor.card.recipe.size
    batch = torch.randn(batch_size, 1, size, size).to(device)
    batch = batch.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def forward() -> None:
        predictor.network.score(batch)

    def of_image() -> float:
        return _seconds(forward, device) / batch_size

    if device.type != "cpu":
        return of_image
    lanes = Lanes()

    def in_lanes() -> float:
        # Each batch by itself: a run does not wait, as is waited here, for the slower lane.
        started = [lanes.start(of_image) for _ in range(_BATCHES_PER_LANE * lanes.count)]
        return statistics.fmean(wait() for wait in started) / lanes.count

    return in_lanes


def operations_of(checkpoint: Checkpoint, size: int) -> float:
    """Return how often the convolutions multiply or add for one image of `size` x `size` pixels."""
    counts = []

    def count(convolution: nn.Conv2d, _inputs: object, output: Tensor) -> None:
        counts.append(2 * output.numel() * convolution.weight[0].numel())

    model = model_of(checkpoint.tensors, checkpoint.card.architecture)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    hooks = [convolution.register_forward_hook(count) for convolution in convolutions]
    with torch.inference_mode():
        model(torch.zeros(1, 1, size, size))
    for hook in hooks:
        hook.remove()
    return float(sum(counts))


class Rounds:
    """Measures that are repeated in several rounds; other work may be done between the rounds."""

    def __init__(self, measures: Mapping[str, Measure], *, seconds: float) -> None:
        """Call each measure once to warm up, and discard the result.

        Args:
            measures: The measures by name.
            seconds: How long each is repeated in a round; each is called once at least.
        """
        self._measures = measures
        self._seconds = seconds
        self._results: dict[str, list[float]] = {name: [] for name in measures}
        for measure in measures.values():
            measure()

    def take(self) -> None:
        """Do one round: repeat each measure for `seconds`, and store the results."""
        for name, measure in self._measures.items():
            end = time.perf_counter() + self._seconds
            self._results[name].append(measure())
            while time.perf_counter() < end:
                self._results[name].append(measure())

    def mean(self, name: str) -> float:
        """Return the mean of one measure's results in all rounds so far.

        Not the median: a run has its share of a machine's slow moments, and only means add up.
        """
        return statistics.fmean(self._results[name])

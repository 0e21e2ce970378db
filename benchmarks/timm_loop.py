"""Images per second of `cxrbatch score` against timm's scoring loop, each from start to table.

timm's side does what its inference script does, with timm's dataset, loader and ResNet-18: reads
PNGs, scores them and writes a CSV. Ours makes heat maps, hashes and the Parquet table as well. It
is run with timm's defaults, and at our model's size with each of some settings; needs
`pip install timm`.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from itertools import product
from pathlib import Path

from archives import write_pngs

_WORKERS, _BATCHES = (0, 1, 2), (32, 128)


def timm_side(options: argparse.Namespace) -> None:
    """Score a folder as timm does."""
    import pandas
    import torch
    from timm.data import create_dataset, create_loader, resolve_data_config
    from timm.models import create_model

    device = torch.device("cpu")
    model = create_model("resnet18", num_classes=4, in_chans=3, pretrained=False)
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    model = model.to(device=device, memory_format=layout).eval()
    config = resolve_data_config({"img_size": options.size}, model=model)
    wanted = ("input_size", "interpolation", "mean", "std", "crop_pct")
    dataset = create_dataset(
        root=str(options.folder), name="", split="validation", class_map="", input_img_mode="RGB"
    )
    loader = create_loader(
        dataset,
        batch_size=options.batch,
        use_prefetcher=True,
        num_workers=options.workers,
        device=device,
        **{name: config[name] for name in wanted},
    )
    probabilities = []
    autocast = torch.autocast("cpu", torch.bfloat16) if options.bf16 else nullcontext()
    with torch.inference_mode():
        for images, _ in loader:
            with autocast:
                output = model(images.contiguous(memory_format=layout))
            probabilities.append(output.float().softmax(-1).cpu())
    table = pandas.DataFrame(torch.cat(probabilities).numpy())
    table.insert(0, "filename", dataset.filenames(basename=True))
    table.to_csv(options.folder.parent / "timm.csv", index=False)


def rate(command: list[str], images: int) -> float:
    """Images per second of a command from its start to its end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return images / (time.perf_counter() - start)


def compare(archive: Path, images: int, size: int) -> None:
    """Run each side on an archive and print rates and ratios."""
    import torch

    output = str(archive.parent / "results.parquet")
    timm = [__file__, "--folder", str(archive)]
    ours = ["-P", "-m", "cxrbatch", "score", str(archive), "-o", output, "--overwrite"]
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    fast = ["--channels-last", *(["--bf16"] if has_bf16 else [])]
    default = rate(timm, images)
    print(f"timm, its defaults (224 px, fp32, 4 workers, batch 256): {default:.1f}", flush=True)
    best = 0.0
    for workers, batch in product(_WORKERS, _BATCHES):
        settings = ["--size", str(size), "--workers", str(workers), "--batch", str(batch), *fast]
        found = rate([*timm, *settings], images)
        print(f"timm, {' '.join(settings)}: {found:.1f}", flush=True)
        best = max(best, found)
    own = rate(ours, images)
    print(f"cxrbatch score: {own:.1f}; {own / default:.2f} times timm's defaults, ", end="")
    print(f"{own / best:.2f} times the fastest timm at {size} px ({images} PNGs)")


def main() -> None:
    """Be one side, or run all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help="of timm's input; our model's in the comparison")
    parser.add_argument("--workers", type=int, default=4, help="of timm")
    parser.add_argument("--batch", type=int, default=256, help="of timm")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    if options.folder is not None:
        timm_side(options)
        return
    from cxrbatch.model.checkpoint import bundled_checkpoint, read_card

    size = options.size or read_card(bundled_checkpoint()).recipe.size
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "archive")
        write_pngs(archive, options.images)
        compare(archive, options.images, size)


if __name__ == "__main__":
    main()

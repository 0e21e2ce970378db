"""`cxrbatch score` by PyTorch against OpenVINO in bf16 and in 8 bits, as whole commands.

All score the same images with the same threads and workers, in turn. What setting 8 bits up takes
is measured by an archive of one image: the seconds by which that takes longer than in bf16.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from archives import write_pngs

from cxrbatch.model.checkpoint import bundled_checkpoint
from cxrbatch.results.table import open_table


def seconds(archive: Path, output: Path, words: list[str]) -> float:
    """Seconds of the whole command, from the start of the process to its end."""
    command = [sys.executable, "-P", "-m", "cxrbatch", "score", str(archive), "-o", str(output)]
    start = time.perf_counter()
    subprocess.run([*command, "--overwrite", *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Run each side in turn, and print seconds, rates, ratios and what 8 bits cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("calibration", type=Path, help="class folders, or labels")
    parser.add_argument("--images", type=int, default=3200)
    parser.add_argument("--repeats", type=int, default=3, help="of which the median counts")
    parser.add_argument("--checkpoint", type=Path, default=bundled_checkpoint())
    options = parser.parse_args()
    openvino = ["--backend", "openvino"]
    int8 = [*openvino, "--precision", "int8", "--calibration", str(options.calibration)]
    sides = {
        "torch bf16": ["--precision", "bf16"],
        "openvino bf16": openvino,
        "openvino int8": int8,
    }
    took: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        archives = {"one": Path(folder) / "one", "all": Path(folder) / "all"}
        write_pngs(archives["one"], 1)
        write_pngs(archives["all"], options.images)
        output = Path(folder, "results.parquet")
        for _ in range(options.repeats):
            for side, words in sides.items():
                for size, archive in archives.items():
                    spent = seconds(
                        archive, output, [*words, "--checkpoint", str(options.checkpoint)]
                    )
                    took.setdefault((size, side), []).append(spent)
        calibration = open_table(output).provenance["calibration"]
    spent = {key: median(values) for key, values in took.items()}
    for side in sides:
        all_of = ", ".join(f"{value:.1f}" for value in took["all", side])
        print(
            f"{side}: {options.images / spent['all', side]:.1f} images/s ({all_of} s), ratio "
            f"{spent['all', 'torch bf16'] / spent['all', side]:.2f}; one image "
            f"{spent['one', side]:.1f} s"
        )
    start = spent["one", "openvino int8"] - spent["one", "openvino bf16"]
    beyond = spent["all", "openvino int8"] - start
    changes = ", ".join(f"{name} {c:+.4f}" for name, c in calibration["auc_change"].items())
    print(
        f"8 bits are set up in {start:.1f} s with {sum(calibration['images'].values())} images; "
        f"beyond that ratio {spent['all', 'torch bf16'] / beyond:.2f}; AUC changes: {changes}"
    )


if __name__ == "__main__":
    main()

"""Mutated checkpoints: each is refused in one line, or scores as plain PyTorch does.

Mutants of a small network with feature statistics: bytes changed in header and weights, files cut
off, tensors with values that no training leaves (NaN, infinities, huge, tiny and negative ones),
swapped, missing, of other shapes and types; and cards with wrong types, sizes, names and numbers.
Each is loaded and scored in fp32 and in bf16. What is scored is compared with the same weights in
`RadiographResNet` in float32, without the code under test. Some go through the command, too.

Shows: no mutant ends in a traceback, and none has a score that plain PyTorch would not give.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from cxrbatch.errors import CxrbatchError
from cxrbatch.model.card import Card, Normalisation
from cxrbatch.model.checkpoint import load_checkpoint
from cxrbatch.model.inference import Precision
from cxrbatch.model.input_gate import STEPS, FeatureStatistics, describe_features
from cxrbatch.model.network import RadiographResNet, build_model, packed_checkpoint
from cxrbatch.model.predictor import Predictor
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.reading.display import GreyImage

# Of a probability; and of a logit, as a share of the magnitudes of what it is the sum of: where
# logits are large, rounding alone moves probabilities by more.
_OFF: dict[Precision, tuple[float, float]] = {"fp32": (1e-4, 1e-5), "bf16": (1e-2, 2e-2)}
_BATCH = 6
_VALUES = (
    *(float("nan"), float("inf"), -float("inf"), 0.0, -0.0, -1.0, 1.0, 100.0, 1e4, 6.5e4, -6.5e4),
    *(1e30, -1e30, 3e38, -3e38, 1e300, 1e19, -1e19, 1e-8, -1e-8, 1e-30, 1e-40, -1e-45),
)
_NAMES = ("", " ", "a\nb", "x" * 65, "\x1b[31m", "Normal", "normal", "é", "\ud800", 7, None, ["a"])
_SIZES = (10**9, 2049, -64, 0, 31, 33, 47, "64", 64.0, None, True, [64], 10**400)
_NUMBERS = (*_VALUES, 0.01, 99.0, 101.0, 1e-45, -2.0, "1", None, True, [], {}, 10**400)

Tensors = dict[str, Tensor]
Fields = dict[str, Any]


class Mutants:
    """Endless mutants of one checkpoint."""

    def __init__(self, whole: Path, chance: random.Random) -> None:
        """Read the checkpoint."""
        self._data = whole.read_bytes()
        self._header = int.from_bytes(self._data[:8], "little")
        self._tensors = load_file(whole)
        with safe_open(whole, framework="pt") as file:
            self._card = json.loads(file.metadata()["cxrbatch"])
        self._chance = chance

    def next(self) -> tuple[str, bytes]:
        """Give the name of a kind and a mutant of it."""
        kinds: list[Callable[[], bytes]] = [
            *(self._bytes, self._cut, self._card_field, self._recipe, self._layout),
            *[self._values] * 4,
            *[self._statistics] * 3,
            *(self._swapped, self._signs, self._scaled, self._types),
        ]
        kind = self._chance.choice(kinds)
        return kind.__name__.strip("_"), kind()

    def _bytes(self) -> bytes:
        data = bytearray(self._data)
        start, stop = self._chance.choice(
            [(0, 8), (8, 8 + self._header), (8 + self._header, len(data))]
        )
        for _ in range(self._chance.choice([1, 3, 40, 4000])):
            data[self._chance.randrange(start, stop)] = self._chance.randrange(256)
        return bytes(data)

    def _cut(self) -> bytes:
        kept = self._data[: self._chance.randrange(len(self._data))]
        return kept + self._chance.choice([b"", b"", bytes(len(self._data) - len(kept))])

    def _values(self) -> bytes:
        tensors = self._copied()
        for _ in range(self._chance.choice([1, 1, 2, 5])):
            values = tensors[self._name(_weights(tensors))].view(-1)
            value = torch.tensor(self._chance.choice(_VALUES), dtype=torch.float64)
            if self._chance.random() < 0.3:
                values.copy_(value)
            else:
                values[self._chance.randrange(len(values))] = value
        return self._packed(tensors)

    def _statistics(self) -> bytes:
        tensors = self._copied()
        name = self._name([n for n in tensors if "running_" in n or "bn" in n or n[:4] == "feat"])
        values = tensors[name].view(-1)
        value = torch.tensor(self._chance.choice(_VALUES), dtype=torch.float64)
        if self._chance.random() < 0.5:
            values[self._chance.randrange(len(values))] = value
        elif self._chance.random() < 0.5:
            values.copy_(value)
        else:
            values.neg_()
        return self._packed(tensors)

    def _swapped(self) -> bytes:
        tensors = self._copied()
        one = self._name(_weights(tensors))
        other = self._name([n for n in tensors if tensors[n].shape == tensors[one].shape])
        tensors[one], tensors[other] = tensors[other], tensors[one].clone()
        return self._packed(tensors)

    def _signs(self) -> bytes:
        tensors = self._copied()
        for _ in range(self._chance.randint(1, 20)):
            tensors[self._name(n for n in _weights(tensors) if "var" not in n)].neg_()
        return self._packed(tensors)

    def _scaled(self) -> bytes:
        """Scale by much, and sometimes undo it in the batch norm behind."""
        tensors = self._copied()
        convolutions = [n for n in tensors if ".conv" in n]
        name, factor = self._name(convolutions), 10.0 ** self._chance.uniform(-44, 38)
        tensors[name].mul_(factor)
        if self._chance.random() < 0.5:
            norm = name.replace("conv", "bn")
            tensors[norm].mul_(self._chance.choice([1 / factor, factor]))
        return self._packed(tensors)

    def _types(self) -> bytes:
        tensors = self._copied()
        name = self._name(tensors)
        kinds = [torch.float64, torch.bfloat16, torch.float16, torch.int8, torch.float8_e4m3fn]
        tensors[name] = tensors[name].to(self._chance.choice(kinds))
        return self._packed(tensors)

    def _layout(self) -> bytes:
        tensors = self._copied()
        name = self._name(tensors)
        kind = self._chance.randrange(5)
        if kind == 0:
            del tensors[name]
        elif kind == 1:
            tensors["extra" * self._chance.choice([1, 1000])] = torch.zeros(1)
        elif kind == 2:
            tensors[name] = tensors[name].reshape(-1)
        elif kind == 3:
            tensors[name] = tensors[name][None].contiguous()
        else:
            tensors[name] = tensors[name].reshape(-1)[:0].clone()
        return self._packed(tensors)

    def _card_field(self) -> bytes:
        card: Fields = json.loads(json.dumps(self._card))
        field = self._chance.choice([*card, "temperature", "classes", "normalisation", "more"])
        if self._chance.random() < 0.15:
            card.pop(field, None)
        elif field == "classes":
            card["classes"][self._chance.randrange(3)] = self._chance.choice(_NAMES)
            if self._chance.random() < 0.2:
                card["classes"] = self._chance.choice([[], ["a"], "abc", ["a"] * 300, None])
        elif field == "normalisation":
            card[field][self._chance.choice(["mean", "std"])] = self._chance.choice(_NUMBERS)
        else:
            card[field] = self._chance.choice([*_NUMBERS, *_NAMES])
        return self._packed(self._tensors, card)

    def _recipe(self) -> bytes:
        card: Fields = json.loads(json.dumps(self._card))
        field = self._chance.choice([*card["recipe"], "size", "more"])
        if self._chance.random() < 0.2:
            card["recipe"].pop(field, None)
        else:
            card["recipe"][field] = self._chance.choice([*_SIZES, "pad", "robust"])
        return self._packed(self._tensors, card)

    def _name(self, names: Iterable[str]) -> str:
        return self._chance.choice(sorted(names))

    def _copied(self) -> Tensors:
        """In 32 or 64 bits, which hold all values that a network may have."""
        dtype = torch.float64 if self._chance.random() < 0.2 else torch.float32
        return {name: tensor.to(dtype, copy=True) for name, tensor in self._tensors.items()}

    def _packed(self, tensors: Tensors, card: Fields | None = None) -> bytes:
        text = json.dumps(card or self._card)
        return save(tensors, metadata={"cxrbatch": text})


def _weights(names: Iterable[str]) -> list[str]:
    """Those names that are not of feature statistics, which no score needs."""
    return [name for name in names if not name.startswith("features.")]


def write_whole(path: Path, *, seed: int) -> None:
    """Write a network that has seen images, with feature statistics."""
    card = Card(
        "small",
        "resnet18",
        ("Normal", "COVID-19", "Viral Pneumonia"),
        Recipe(size=64),
        Normalisation(0.5, 0.25),
        temperature=1.3,
        gate={"kinds": ["hand"], "threshold": 99.0, "flagged": {}},
    )
    torch.manual_seed(seed)
    model = build_model(card)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(16, 1, 64, 64))
        model.fc.weight.mul_(5.0)
        features = model.eval().features(torch.randn(40, 1, 64, 64)).mean((2, 3)).numpy()
    statistics = FeatureStatistics(
        *describe_features(features, np.arange(40) % 3, classes=3),
        np.zeros((2, features.shape[1]), np.float32),
        np.zeros(2, np.float32),
        np.ones(2, np.float32),
        np.arange(STEPS, dtype=np.float32),
    )
    path.write_bytes(packed_checkpoint(model=model, card=card, features=statistics))


def images(size: int, chance: np.random.Generator) -> np.ndarray:
    """Black, white, noise and shades, shape (n, size, size), uint8."""
    shades = chance.integers(0, 256, (_BATCH - 3, 4, 4), np.uint8)
    blurred = [Image.fromarray(s).resize((size, size), Image.Resampling.BICUBIC) for s in shades]
    noise = chance.integers(0, 256, (size, size), np.uint8)
    plain = [np.zeros_like(noise), np.full_like(noise, 255), noise]
    return np.stack([*plain, *map(np.asarray, blurred)])


def plain_scores(path: Path, inputs: np.ndarray) -> tuple[Tensor, Tensor, float]:
    """Give logits, the magnitudes of what they are sums of, and the temperature."""
    with safe_open(path, framework="pt") as file:
        card = json.loads(file.metadata()["cxrbatch"])
    state = {n: t.float() for n, t in load_file(path).items() if not n.startswith("features.")}
    model = RadiographResNet(card["architecture"], classes=len(card["classes"])).eval()
    model.load_state_dict(state, strict=False)
    norm = card["normalisation"]
    with torch.no_grad():
        grey = torch.from_numpy(inputs)[:, None].double() / 255
        features = model.features(((grey - norm["mean"]) / norm["std"]).float()).mean((2, 3))
        magnitudes = features.abs() @ model.fc.weight.abs().T + model.fc.bias.abs()
        return model.fc(features), magnitudes, float(card["temperature"])


def scored(path: Path, precision: Precision, chance: np.random.Generator) -> str:
    """Load and score a checkpoint in this process; gives what became of it."""
    try:
        checkpoint = load_checkpoint(path)
        inputs = images(checkpoint.card.recipe.size, chance)
        scorer = Predictor(
            checkpoint, batch_size=_BATCH, device=torch.device("cpu"), precision=precision
        )
        scores = scorer.score(inputs)
    except CxrbatchError as error:
        return "refused" if str(error).isprintable() else "FAULT: more than a line"
    except Exception as error:
        return f"FAULT: {type(error).__name__}: {error}"
    found = (torch.from_numpy(scores.logits), scores.probabilities)
    return compared(found, path, inputs, precision)


def compared(
    scores: tuple[Tensor, np.ndarray], path: Path, inputs: np.ndarray, precision: Precision
) -> str:
    """Compare scores with those of plain PyTorch."""
    (logits, probabilities), off = scores, _OFF[precision]
    plain, magnitudes, temperature = plain_scores(path, inputs)
    if not plain.isfinite().all():
        return "FAULT: plain PyTorch gives no finite score"
    expected = (plain.double() / temperature).softmax(dim=1).numpy()
    change = float(np.abs(probabilities - expected).max())
    if change <= off[0]:
        return "agreed"
    share = float(((logits - plain).abs() / magnitudes).max())
    return "agreed but for rounding" if share <= off[1] else f"FAULT: off by {change} and {share}"


def commanded(path: Path, film: Path, folder: Path) -> str:
    """Score one film by the command; gives what became of it."""
    output = folder / "results.parquet"
    words = ["score", str(film), "-o", str(output), "--checkpoint", str(path), "--overwrite"]
    words += ["--workers", "0", "--batch-size", "2", "--precision", "fp32"]
    command = [sys.executable, "-P", "-m", "cxrbatch", *words]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode in (1, 2) and "Traceback" not in done.stderr:
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        return "refused" if len(errors) == 1 else f"FAULT: {done.stderr[-300:]}"
    if done.returncode:
        return f"FAULT: exit code {done.returncode}: {done.stderr[-300:]}"
    (row,) = pq.read_table(output).to_pylist()
    with safe_open(path, framework="pt") as file:
        card = Card.from_json(file.metadata()["cxrbatch"])
    inputs = card.recipe.prepare(GreyImage(np.asarray(Image.open(film), np.float32) / 255))[None]
    probabilities = np.array([[row[f"p_{name}"] for name in card.classes]])
    logits = torch.tensor([[row[f"logit_{name}"] for name in card.classes]])
    return compared((logits, probabilities), path, inputs, "fp32")


def main() -> None:
    """Mutate, load, score and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--commands", type=int, default=25, help="mutants for the command, too")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, pictures = random.Random(options.seed), np.random.default_rng(options.seed)
    every = max(1, options.runs // max(1, options.commands))
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CONFIG_HOME"] = str(folder / "config")
        whole, path, film = folder / "whole.safetensors", folder / "mutant", folder / "film.png"
        write_whole(whole, seed=options.seed)
        Image.fromarray(images(64, pictures)[-1]).save(film)
        for precision in _OFF:
            result = scored(whole, precision, pictures)
            if result != "agreed":
                raise SystemExit(f"FAILED: the whole checkpoint in {precision}: {result}")
        mutants = Mutants(whole, chance)
        for number in range(options.runs):
            kind, data = mutants.next()
            path.write_bytes(data)
            results = {precision: scored(path, precision, pictures) for precision in _OFF}
            if number % every == 0:
                results["command"] = commanded(path, film, folder)
            for way, result in results.items():
                counts[f"{way} {result.partition(':')[0]}"] += 1
                if result.startswith("FAULT"):
                    print(f"mutant {number}, {kind}, {way}: {result}", flush=True)
    print(", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    if any("FAULT" in name for name in counts):
        raise SystemExit("FAILED: a mutant is neither refused nor scored as plain PyTorch does")


if __name__ == "__main__":
    main()

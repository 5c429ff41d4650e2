"""Do decisions keep what they aim at, and do they find what is foreign?

    python benchmarks/bench_decisions.py PART... --data-root FOLDER [--seeds 0,1,2] [--out FOLDER]

FOLDER holds flowers.zip, cifar10.zip (parts train and test) and mnist/MNIST. The parts:

    far    flowers, CIFAR-10 and MNIST in turn; each other's images, noise, drawn patterns and pages
           of text are foreign: AUROC of the p-value, and the share that is called unknown
    near   one class of flowers, or a pair of CIFAR-10's, left out of training in turn
    own    images of the training's own kind that are called unknown: plainly, with near copies of
           half of the training images, with groups of four, after fine-tuning, without a bank
    sets   coverage, size and worst class of sets, promised precisions, costs
    price  microseconds an image of the typicality, seconds of a training, bytes of the bundle

Everything runs by the public interface with its defaults: ``regraft.train``, the bundle it writes,
``regraft.evaluate`` and ``Predictor``. Prints Markdown, with standard errors over the seeds in
brackets. With features in the store the parts take minutes, ``near`` and ``own`` up to an hour on
two cores.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import regraft
from regraft.decision.costs import Costs
from regraft.decision.levels import levels_with
from regraft.decision.measure import measure_decisions
from regraft.runs.metrics_file import read_metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

FOREIGN = 400  # images of each kind
#: Splits of `own` where every training extracts anew or trains the network, and of class weights.
FEW_SEEDS = 3
PAIRS = (("airplane", "bird"), ("automobile", "truck"), ("cat", "dog"), ("deer", "horse"),
         ("frog", "ship"))  # fmt: skip
FEW_CIFAR = "600/class"  # of both parts: 4,000 to train, as in the table of the design


class Job:
    """What the parts share: where data and runs are."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.root: Path = given.data_root
        self.out: Path = given.out
        self.seeds: list[int] = given.seeds

    def train(self, name: str, data: Any, seed: int, **settings: Any) -> Path:
        """Train once; a run of the same name is used again."""
        folder = self.out / f"{name}-{seed}"
        if not (folder / "metrics.json").exists():
            began = time.perf_counter()
            regraft.train(data, seed=seed, out=folder, **settings)
            print(f"{folder.name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
        return folder

    def data(self, name: str) -> dict[str, Any]:
        """Return the arguments of a training on one of the three data sets."""
        return {
            "flowers": {"data": self.root / "flowers.zip"},
            "cifar": {"data": self.root / "cifar10.zip", "at_most": FEW_CIFAR},
            "mnist": {"data": "mnist", "data_root": self.root / "mnist", "at_most": "700/class"},
        }[name]


# --- images that fit no class -------------------------------------------------------------------


def foreign(job: Job) -> dict[str, list[bytes]]:
    """Return images of each kind, encoded."""
    random = np.random.default_rng(7)
    noise = [random.integers(0, 256, (240, 240, 3), np.uint8) for _ in range(FOREIGN // 2)]
    gauss = [random.normal(128, 40, (240, 240, 3)) for _ in range(FOREIGN // 2)]
    return {
        "flowers": _members(job.root / "flowers.zip", "", random),
        "cifar": _members(job.root / "cifar10.zip", "/test/", random),
        "mnist": _digits(job.root, random),
        "uniform noise": [_png(each) for each in noise],
        "Gaussian noise": [_png(each.clip(0, 255).astype(np.uint8)) for each in gauss],
        "patterns": [_png(_pattern(random)) for _ in range(FOREIGN // 2)],
        "text": [_png(_page(random)) for _ in range(FOREIGN // 2)],
    }


def _members(path: Path, inside: str, random: np.random.Generator) -> list[bytes]:
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if inside in n and n.lower().endswith(".jpg")]
        return [archive.read(names[k]) for k in random.permutation(len(names))[:FOREIGN]]


def _digits(root: Path, random: np.random.Generator) -> list[bytes]:
    import gzip  # noqa: PLC0415 - for this alone

    path = next((root / "mnist").rglob("t10k-images*"))
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    digits = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)
    return [_png(digits[k]) for k in random.permutation(len(digits))[:FOREIGN]]


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _pattern(random: np.random.Generator) -> np.ndarray:
    """Draw stripes, checks or circles in two colours."""
    y, x = np.mgrid[0:240, 0:240] / 240
    angle, pace = random.uniform(0, np.pi), random.uniform(4, 40)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kind = random.integers(3)
    mask = (
        np.sin(2 * pace * u) > 0
        if kind == 0
        else (np.sin(2 * pace * u) > 0) ^ (np.sin(2 * pace * v) > 0)
        if kind == 1
        else np.sin(3 * pace * np.hypot(u - 0.5, v - 0.2)) > 0
    )
    colours = random.integers(0, 256, (2, 3))
    return np.where(mask[..., None], *colours).astype(np.uint8)


def _page(random: np.random.Generator) -> np.ndarray:
    """Draw a page of words."""
    page = Image.new("RGB", (240, 240), (int(random.integers(225, 256)),) * 3)
    draw, size = ImageDraw.Draw(page), int(random.integers(9, 22))
    font = ImageFont.load_default(size)
    for line in range(4, 236, int(size * 1.3)):
        words = [
            "".join(map(chr, random.integers(97, 123, random.integers(2, 9)))) for _ in "x" * 9
        ]
        draw.text((8, line), " ".join(words), fill=(20, 20, 20), font=font)
    return np.asarray(page)


def auroc(own: np.ndarray, other: np.ndarray) -> float:
    """Return the chance that another image has a smaller p-value than an own one."""
    ranks = np.concatenate([own, other])
    order = ranks.argsort(kind="stable")
    places = np.empty(len(ranks))
    places[order] = np.arange(1, len(ranks) + 1)
    for value in np.unique(ranks):  # the mean place of equal values
        same = ranks == value
        places[same] = places[same].mean()
    above = places[: len(own)].sum() - len(own) * (len(own) + 1) / 2
    return float(above / (len(own) * len(other)))


def p_values(predictor: Any, images: Sequence[bytes]) -> np.ndarray:
    return np.array([each.typicality for each in predictor.predict_many(images, 1)])


# --- the parts ------------------------------------------------------------------------------------


def mean_and_error(values: Iterable[float]) -> str:
    """Return a mean with its standard error."""
    each = np.array([value for value in values if value is not None], float)
    if len(each) < 2:
        return "" if not len(each) else f"{each[0]:.3f}"
    return f"{each.mean():.3f} ({each.std(ddof=1) / len(each) ** 0.5:.3f})"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    print("| " + " | ".join(head) + " |")
    print("| " + " | ".join("---" for _ in head) + " |")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print(flush=True)


def held_out(job: Job, name: str, run: Path) -> list[bytes]:
    """Return some test images of a run, encoded."""
    import csv  # noqa: PLC0415 - for this alone

    with (run / "split.csv").open(encoding="utf-8") as file:
        tested = [row["id"] for row in csv.DictReader(file) if row["part"] == "test"]
    random = np.random.default_rng(11)
    some = [tested[k] for k in random.permutation(len(tested))[: 2 * FOREIGN]]
    if name == "mnist":
        return _mnist_by_id(job.root, some)
    with zipfile.ZipFile(job.root / f"{'cifar10' if name == 'cifar' else name}.zip") as archive:
        names = archive.namelist()
        by_tail = {each.partition("/")[2]: each for each in names} | {each: each for each in names}
        return [archive.read(by_tail[each]) for each in some]


def _mnist_by_id(root: Path, ids: Sequence[str]) -> list[bytes]:
    import gzip  # noqa: PLC0415 - for this alone

    path = next((root / "mnist").rglob("t10k-images*"))
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    digits = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)
    return [_png(digits[int(each.rpartition("/")[2].rpartition(":")[2])]) for each in ids]


def far(job: Job) -> None:
    """Foreign images of other kinds."""
    others = foreign(job)
    rows = []
    for name in ("flowers", "cifar", "mnist"):
        found: dict[str, list[tuple[float, float, float]]] = {}
        for seed in job.seeds:
            given = job.data(name)
            run = job.train(name, given.pop("data"), seed, **given)
            predictor = regraft.Predictor.load(run)
            own = p_values(predictor, held_out(job, name, run))
            for kind, images in others.items():
                if kind == name:
                    continue
                p = p_values(predictor, images)
                row = (auroc(own, p), float((p <= 0.05).mean()), float((p <= 0.01).mean()))
                found.setdefault(kind, []).append(row)
        for kind, each in found.items():
            rows.append(
                [name, kind, *(mean_and_error(column) for column in zip(*each, strict=True))]
            )
    table(("in", "foreign", "AUROC", "power at 0.05", "power at 0.01"), rows)


def near(job: Job) -> None:
    """Classes that were left out of the training."""
    rows = []
    for name, groups in (
        ("flowers", [(c,) for c in ("daisy", "dandelion", "rose", "sunflower", "tulip")]),
        ("cifar", PAIRS),
    ):
        every = sorted({c for group in groups for c in group})
        found = []
        for seed in job.seeds:
            each = []
            for left in groups:
                given = job.data(name)
                kept = tuple(c for c in every if c not in left)
                run = job.train(
                    f"{name}-without-{'-'.join(left)}",
                    given.pop("data"),
                    seed,
                    classes=kept,
                    **given,
                )
                predictor = regraft.Predictor.load(run)
                own = p_values(predictor, held_out(job, name, run))
                p = p_values(predictor, _of_classes(job, name, left))
                each.append((auroc(own, p), float((p <= 0.05).mean()), float((p <= 0.01).mean())))
            found.append(np.mean(each, axis=0))
        rows.append([name, *(mean_and_error(column) for column in np.array(found).T)])
    table(("in", "AUROC", "power at 0.05", "power at 0.01"), rows)


def _of_classes(job: Job, name: str, classes: Sequence[str]) -> list[bytes]:
    path = job.root / f"{'cifar10' if name == 'cifar' else name}.zip"
    inside = "/test/" if name == "cifar" else "/"
    with zipfile.ZipFile(path) as archive:
        names = [
            n
            for n in archive.namelist()
            if inside in n and n.endswith(".jpg") and n.split("/")[-2] in classes
        ]
        some = np.random.default_rng(3).permutation(len(names))[:FOREIGN]
        return [archive.read(names[k]) for k in some]


def own(job: Job) -> None:
    """Images of the training's kind that are called unknown at 0.05."""
    settings: dict[str, dict[str, Any]] = {
        "flowers": job.data("flowers"),
        "cifar": job.data("cifar"),
        "flowers, fine-tuned": {
            **job.data("flowers"), "strategy": "finetune", "epochs": 2, "image_size": "128",
            "batch_size": 32,
        },
        "flowers, without a bank": {**job.data("flowers"), "bank": False},
    }  # fmt: skip
    rows = [
        _own_row(job, name, lambda _seed, s=given: dict(s), None if "," not in name else FEW_SEEDS)
        for name, given in settings.items()
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, made in (("flowers, half copied", _copied), ("flowers, groups of 4", _grouped)):
            rows.append(_own_row(job, name, lambda seed, m=made: m(job, folder, seed), FEW_SEEDS))
    table(("data", "splits", "called unknown at 0.05", "at 0.01"), rows)


def _own_row(
    job: Job, name: str, data: Callable[[int], dict[str, Any]], most: int | None
) -> list[object]:
    """Return a row, by at most so many of the seeds."""
    shares: dict[float, list[float]] = {0.05: [], 0.01: []}
    for seed in job.seeds[:most]:
        given = data(seed)
        source = given.pop("data")
        run = job.train(name.replace(", ", "-").replace(" ", "-"), source, seed, **given)
        read = {k: given[k] for k in ("at_most", "data_root") if k in given}
        for level, found in shares.items():
            result = regraft.evaluate(run, source, unknown_level=level, **read)
            found.append(result["decisions"]["unknown"]["share"]["value"])
    return [name, len(shares[0.05]), *(mean_and_error(found) for found in shares.values())]


def _copied(job: Job, scratch: Path, seed: int) -> dict[str, Any]:
    """Write a training part of which half has a near copy, and a test part without."""
    return {"data": _variants(job, scratch / f"copied-{seed}", seed, lambda k: 1 + k % 2)}


def _grouped(job: Job, scratch: Path, seed: int) -> dict[str, Any]:
    """Write bursts of four, all images of a burst in one part, named after it."""
    folder = _variants(job, scratch / f"grouped-{seed}", seed, lambda _: 4, tested=4, most=800)
    return {"data": folder, "group_by": r"([^/]+)_\d\.jpg"}


def _variants(
    job: Job,
    folder: Path,
    seed: int,
    count: Callable[[int], int],
    *,
    tested: int = 1,
    most: int = 2000,
) -> Path:
    """Write photographs with so many slightly changed copies of each, in parts train and test."""
    random = np.random.default_rng(seed)
    with zipfile.ZipFile(job.root / "flowers.zip") as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".jpg"))
        for k, chosen in enumerate(random.permutation(len(names))[:most]):
            part = "test" if k % 4 == 0 else "train"
            name = Path(names[chosen])
            home = folder / part / name.parent.name
            home.mkdir(parents=True, exist_ok=True)
            image = Image.open(io.BytesIO(archive.read(names[chosen]))).convert("RGB")
            for copy in range(tested if part == "test" else count(k // 4 + k)):
                changed = _changed(image, random) if copy else image
                changed.save(home / f"{name.stem}_{copy}.jpg", quality=90 - 10 * copy)
    return folder


def _changed(image: Image.Image, random: np.random.Generator) -> Image.Image:
    width, height = image.size
    left, top = (int(random.integers(0, side // 12)) for side in image.size)
    right, bottom = (
        width - int(random.integers(0, width // 12)),
        height - int(random.integers(0, 9)),
    )
    bright = random.uniform(0.85, 1.15)
    return image.crop((left, top, right, bottom)).point(lambda value: value * bright)


def probabilities(run: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the test images' probabilities (n, K), labels (n,) and the classes, from a run."""
    import csv  # noqa: PLC0415 - for this alone

    classes = read_metrics(run)["data"]["classes"]
    with (run / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    p = np.array([[float(row[f"p({name})"]) for name in classes] for row in rows], np.float32)
    return p, np.array([classes.index(row["true"]) for row in rows]), classes


def sets(job: Job) -> None:
    """Measure sets, promises and costs on the test part."""
    of_sets, of_promises, of_costs = [], [], []
    for name in ("flowers", "cifar"):
        measured: dict[str, list[dict[str, Any]]] = {}
        below: dict[str, int] = {}
        for k, seed in enumerate(job.seeds):
            both = name == "flowers" and k < FEW_SEEDS
            for weight in ("none", "balanced") if both else ("none",):
                given = job.data(name)
                title = name if weight == "none" else f"{name}-{weight}"
                run = job.train(title, given.pop("data"), seed, class_weight=weight, **given)
                predictor = regraft.Predictor.load(run)
                p, y, classes = probabilities(run)
                random = np.random.default_rng(seed)
                costs = [Costs(_random_costs(random, len(classes))) for _ in range(20)]
                choices: list[tuple[str, dict[str, Any]]] = [
                    (f"costs, {weight}", {"costs": each}) for each in costs
                ]
                if weight == "none":
                    choices += [("sets, all", {"coverage": c}) for c in (0.9, 0.95, 0.99)]
                    choices += [("sets, class", {"coverage": 0.95, "coverage_by": "class"})]
                    choices += [("promise", {"min_precision": c}) for c in (0.95, 0.98, 0.99)]
                for kind, choice in choices:
                    levels = levels_with(predictor.decisions.levels, classes, choice)
                    decided = predictor.decisions.rules(len(classes), levels).decide(p, None)
                    found = measure_decisions(decided, y, classes, levels, p.argmax(1))
                    key = f"{kind} {levels.min_precision or levels.coverage}"
                    measured.setdefault(key, []).append(found)
        for key, each in measured.items():
            if key.startswith("sets"):
                worst = [min(c["value"] for c in m["sets"]["per_class"]) for m in each]
                of_sets.append([
                    name, key, mean_and_error(m["sets"]["coverage"]["value"] for m in each),
                    mean_and_error(m["sets"]["size"]["value"] for m in each), mean_and_error(worst),
                ])  # fmt: skip
            elif key.startswith("promise"):
                aimed = each[0]["answers"]["aimed_at"]
                ends = [m["answers"]["precision"]["high"] for m in each]
                below[key] = sum(end is not None and end < aimed for end in ends)
                of_promises.append([
                    name, aimed, mean_and_error(m["answers"]["answered"]["value"] for m in each),
                    mean_and_error(m["answers"]["precision"]["value"] for m in each),
                    sum(m["answers"]["answered"]["value"] == 0 for m in each), below[key],
                ])  # fmt: skip
            else:
                of_costs.append([
                    name, key, mean_and_error(m["costs"]["expected"]["value"] for m in each),
                    mean_and_error(m["costs"]["most_probable"]["value"] for m in each),
                ])  # fmt: skip
    table(("data", "aimed at", "coverage", "size", "worst class"), of_sets)
    table(("data", "promise", "answered", "precision", "never answered",
           "significantly below"), of_promises)  # fmt: skip
    table(("data", "fit", "cheapest answer", "most probable class"), of_costs)


def _random_costs(random: np.random.Generator, k: int) -> np.ndarray:
    costs = random.choice([1.0, 2.0, 5.0, 10.0], (k, k))
    np.fill_diagonal(costs, 0)
    return costs


def price(job: Job) -> None:
    """Measure what decisions cost."""
    rows = []
    random = np.random.default_rng(0)
    for n, width in ((2000, 1280), (4000, 1280), (2000, 2048)):
        from regraft.decision.typicality import fit_neighbours  # noqa: PLC0415 - for this alone

        bank = np.maximum(random.normal(0, 1, (n, width)), 0).astype(np.float32)
        began = time.perf_counter()
        typicality = fit_neighbours(bank)
        fitted = time.perf_counter() - began
        batch = bank[:16]
        typicality.p_values(batch)
        began = time.perf_counter()
        for _ in range(50):
            typicality.p_values(batch)
        each = (time.perf_counter() - began) / 50 / 16
        rows.append([f"{n:,} rows of {width:,}", f"{each * 1e6:.0f} us", f"{fitted:.2f} s"])
    table(("bank", "an image, in batches of 16", "fit"), rows)
    sizes = []
    for name in ("flowers", "cifar"):
        given = job.data(name)
        run = job.train(name, given.pop("data"), job.seeds[0], **given)
        bundle = sum(file.stat().st_size for file in (run / "bundle").rglob("*") if file.is_file())
        kept = (run / "bundle" / "decisions.safetensors").stat().st_size
        seconds = json.dumps(read_metrics(run)["seconds"])
        sizes.append([name, f"{bundle / 1e6:.1f} MB", f"{kept / 1e6:.1f} MB", seconds])
    table(("data", "bundle", "of it decisions", "seconds"), sizes)


PARTS = {"far": far, "near": near, "own": own, "sets": sets, "price": price}


def main() -> int:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="+", choices=[*PARTS])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--seeds", type=lambda t: [int(s) for s in t.split(",")], default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "decisions")
    given = parser.parse_args()
    for part in given.parts:
        print(f"{part}, seeds {', '.join(map(str, given.seeds))}\n", flush=True)
        PARTS[part](Job(given))
    return 0


if __name__ == "__main__":
    sys.exit(main())

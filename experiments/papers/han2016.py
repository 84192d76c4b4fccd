"""The tables of Deep Compression (Han, Mao, Dally 2016, arXiv 1510.00149), recomputed, and our trials beside them.

    python -m experiments.papers.han2016 [WORKDIR ...] [--json | --markdown]

A layer's rate follows from its density, the widths of codes and distances, and its shape; densities and rates are
printed rounded, so the question is whether any rates that the printed density allows are printed as the paper has it.
Then Table 1, and beside it the settings that our trials on the same networks and data chose by validation.
"""

import sys
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import scipy.optimize

from experiments.papers.accounting import Han2016 as Rule
from experiments.papers.ours import Found, best, read
from experiments.papers.published import Han2016, interval, load
from experiments.papers.published.forms import Compressed, Layer
from experiments.papers.sheet import Sheet, command

PAPER = load(Han2016, "han2016")
RULES = {"han2016": Rule()}
NOTE = (
    "rates in % of 32 bits a weight. ours: q (1 + f) (code + gap) + 32 k bits, with f fillers for each weight that is "
    "kept as pruned positions at random would need; between: at the least and the largest density that is printed so, "
    "and likewise for bits that are printed rounded"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables; returns the exit status."""
    return command("han2016", __doc__ or "", sheets, arguments)


def sheets(folders: Sequence[Path]) -> tuple[list[Sheet], tuple[str, ...]]:
    """All tables, and what was wrong in the folders."""
    found, problems = read(folders, RULES)
    return [*(_rates(name, network) for name, network in PAPER.networks.items()), _table(found)], problems


def fillers(density: float, gap_bits: int) -> float:
    """Fillers for each weight that is kept, when these lie at random: u / (1 - u) with u = (1 - density)^(2^gap_bits).

    A distance is longer than 2^gap_bits with probability u, twice as long with u^2, ...
    """
    u = (1 - density) ** (1 << gap_bits)
    return u / (1 - u)


def rate(layer: Layer, density: float, bits: float, gap_bits: int, filled: float = 1.0) -> float:
    """Bits of a layer over 32 bits a weight.

    bits: of a code and a distance together. filled: share of the fillers at random that there are.
    """
    entries = density * (1 + filled * fillers(density, gap_bits))
    return entries * bits / 32 + (1 << layer.code) / prod(layer.shape)


def _rates(name: str, network: Compressed) -> Sheet:
    rows = []
    for label, layer in network.layers.items():
        fixed = layer.code + network.gap
        rows.append(_row(label, layer, network.gap, layer.rate, (fixed, fixed)))
        if layer.huffman is not None:
            pairs = zip(interval(layer.huffman.code), interval(layer.huffman.gap), strict=True)
            low, high = (code + gap for code, gap in pairs)
            rows.append(_row(f"{label} + Huffman", layer, network.gap, layer.huffman.rate, (low, high)))
    rows.append(_total(network))
    columns = {"layer": "", "weights": ",", "density %": "", "published": "", "ours": ".2f", "difference": "+.2f"}
    columns |= {"from": ".2f", "to": ".2f", "agrees": "", "why not": ""}
    agree = sum(row["agrees"] == "yes" for row in rows)
    return Sheet(f"{name}: rates, {agree} of {len(rows)} agree within rounding", columns, tuple(rows), (NOTE,))


def _row(label: str, layer: Layer, gap: int, printed: str, bits: tuple[float, float]) -> dict[str, Any]:
    """bits: the least and the most that a code and a distance may have together."""
    low, high = (end / 100 for end in interval(layer.density))
    middle = rate(layer, float(layer.density) / 100, sum(bits) / 2, gap)
    ends = rate(layer, low, bits[0], gap), rate(layer, high, bits[1], gap)
    least, most = (end / 100 for end in interval(printed))
    row = {"layer": label, "weights": prod(layer.shape), "density %": layer.density, "published": printed}
    row |= {"ours": 100 * middle, "difference": 100 * middle - float(printed)}
    row |= {"from": 100 * ends[0], "to": 100 * ends[1]}
    if ends[0] <= most and ends[1] >= least:
        return row | {"agrees": "yes"}
    return row | {"agrees": "no", "why not": _why(layer, gap, float(printed) / 100, sum(bits) / 2, ends[0] > most)}


def _why(layer: Layer, gap: int, wanted: float, bits: float, too_large: bool) -> str:
    """What else would give the printed rate."""
    density = float(layer.density) / 100
    if too_large and rate(layer, density, bits, gap, filled=0) <= wanted:
        share = _solved(lambda filled: rate(layer, density, bits, gap, filled) - wanted, 1.0)
        return f"{100 * share:.0f} % of the fillers at random would do: what is pruned lies in clusters"
    if wanted <= (1 << layer.code) / prod(layer.shape):
        return "a full codebook alone takes more"
    need = _solved(lambda density: rate(layer, density, bits, gap) - wanted, 1 - 1e-9)
    return f"it needs a density of {100 * need:.1f} %"


def _solved(excess: Callable[[float], float], high: float) -> float:
    return float(scipy.optimize.brentq(excess, 1e-6, high))  # pyright: ignore[reportArgumentType]


def _total(network: Compressed) -> dict[str, Any]:
    layers, gap = network.layers.values(), network.gap
    weights = sum(prod(layer.shape) for layer in layers)

    def share(end: Callable[[str], float]) -> float:
        """All layers at these densities."""
        rates = (rate(layer, end(layer.density) / 100, layer.code + gap, gap) for layer in layers)
        return 100 * sum(r * prod(layer.shape) for r, layer in zip(rates, layers, strict=True)) / weights

    low, middle, high = share(lambda text: interval(text)[0]), share(float), share(lambda text: interval(text)[1])
    printed = network.total.rate
    least, most = interval(printed)
    agrees = low <= most and high >= least
    return {
        "layer": "total",
        "weights": weights,
        "published": printed,
        "ours": middle,
        "difference": middle - float(printed),
        "from": low,
        "to": high,
        "agrees": "yes" if agrees else "no",
        "why not": "" if agrees else "the layers that do not agree",
    }


def _table(found: list[Found]) -> Sheet:
    rows = []
    for name, network in PAPER.networks.items():
        table = network.table
        published = {
            "their before %": float(table.error_before),
            "their error %": float(table.error_after),
            "their KB": float(table.kilobytes_after),
            "their ratio": float(table.ratio),
        }
        alike = [each for each in found if _key(each) == (network.model, network.dataset)]
        if not alike:
            reason = "not run" if network.model else "not run: ImageNet is not here"
            rows.append({"network": name, **published, "setting": reason})
        for method in dict.fromkeys(each.setting.first.method for each in alike):
            of = [each for each in alike if each.setting.first.method == method]
            chosen = {"smallest": next((each for each in of if each.setting.chosen), None), "best": best(of)}
            for why, each in chosen.items():
                missing = "none without loss" if why == "smallest" else "no setting has results of a seed"
                rows.append({"network": name, **published, "setting": f"{method}: {missing}", "chosen": why})
                if each is not None:
                    rows[-1] |= _ours(each, published)
    columns = {"network": "", **dict.fromkeys(("their before %", "their error %"), ".2f")}
    columns |= {"their KB": ",.0f", "their ratio": ".0f", "setting": "", "chosen": "", "seeds": ""}
    columns |= {"before %": ".2f", "error %": ".2f", "KB": ",.2f", "ratio": ".1f", "ratio, their count": ".1f"}
    columns |= {"error difference": "+.2f", "KB difference": "+,.1f"}
    notes = (
        "KB: 1000 bytes, of the whole file. their count: rule han2016 with 5 bits for a distance, on the same weights",
        "chosen by validation data: smallest, the largest ratio that loses nothing; best, the best metric. "
        "Mean over the seeds",
    )
    return Sheet("Table 1, and our trials", columns, tuple(rows), notes)


def _key(found: Found) -> tuple[str, str]:
    return found.setting.first.model, found.setting.first.dataset


def _ours(found: Found, published: dict[str, float]) -> dict[str, Any]:
    setting = found.setting
    error, size = 100 * (1 - setting.metric.mean), setting.file_bytes.mean / 1000
    return {
        "setting": f"{setting.first.method} {setting.label}".strip(),
        "seeds": f"{len(setting.done)}",
        "before %": 100 * (1 - setting.baseline_metric.mean),
        "error %": error,
        "KB": size,
        "ratio": setting.ratio.mean,
        "ratio, their count": 1 / found.psi["han2016"],
        "error difference": error - published["their error %"],
        "KB difference": size - published["their KB"],
    }


if __name__ == "__main__":
    sys.exit(main())

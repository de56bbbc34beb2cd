"""What the experiments share: they run `sluice simulate`, and write what it says as Markdown.

An experiment is a module with a function `run(bench)` that returns Markdown: what was run, and a
table. `bench/experiments/NAME.py --binary PATH` prints it; run_all.py puts all of them into
docs/scheduling.md.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass
class Range:
    """One figure of several seeds: the median, and how far they lie apart."""

    values: list

    def __str__(self):
        middle, low, high = statistics.median(self.values), min(self.values), max(self.values)
        if low == high or any(map(math.isnan, self.values)):
            return number(middle)
        return f"{number(middle)} ({number(low)} to {number(high)})"

    def __truediv__(self, other):
        return Range([a / b if math.isfinite(a) and math.isfinite(b) and b > 0 else math.nan
                      for a, b in zip(self.values, other.values)])

    def map(self, function):
        return Range([function(v) for v in self.values])


def number(v):
    """Three digits that count."""
    if isinstance(v, str):
        return v
    if math.isnan(v):
        return "-"
    if math.isinf(v):
        return "none" if v < 0 else "beyond"
    digits = 0 if v == 0 else max(0, 2 - math.floor(math.log10(abs(v))))
    return f"{v:.{digits}f}"


def get(line, path):
    """`ttft_s.p99` of a line of the simulator's JSON."""
    for key in path.split("."):
        line = line[key]
    return line


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    for row in rows:
        lines.append("| " + " | ".join(number(c) if isinstance(c, float) else str(c) for c in row) + " |")
    return "\n".join(lines)


def code(*commands):
    return "\n".join(["```sh", *commands, "```"])


class Bench:
    """Runs the simulator. Arguments are given as one string, as on a command line."""

    def __init__(self, binary, quick=False, pictures=None):
        self.binary, self.quick, self.pictures = binary, quick, pictures
        self.seeds = [1] if quick else [1, 2, 3]
        self.known = {}  # lines by what was asked for: bounds share the points of their grids

    def requests(self, n):
        return max(50, n // 20) if self.quick else n

    def _simulate(self, arguments, *more):
        with tempfile.NamedTemporaryFile(suffix=".json") as out:
            command = [self.binary, "simulate", *shlex.split(arguments), *more, "--json", out.name]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(f"{shlex.join(map(str, command))}\n{done.stderr}")
            return json.load(open(out.name))

    def lines(self, arguments, loads=None, seed=1, option="--rates"):
        """One line per load; `arguments` name one preset."""
        points = [None] if loads is None else [f"{load:.6g}" for load in loads]
        keys = [(arguments, option, point, seed) for point in points]
        missing = [key for key in keys if key not in self.known]
        if missing:
            asked = [] if loads is None else [f"{option}={','.join(key[2] for key in missing)}"]
            lines = self._simulate(arguments, f"--seed={seed}", *asked)["lines"]
            self.known.update(zip(missing, lines, strict=True))
        return [self.known[key] for key in keys]

    def each(self, arguments, loads=None, option="--rates"):
        """The only line, of every seed."""
        return [self.lines(arguments, loads, seed, option)[0] for seed in self.seeds]

    def value(self, arguments, path, loads=None, option="--rates"):
        return Range([get(line, path) for line in self.each(arguments, loads, option)])

    def capacity(self, arguments, loads, *bounds):
        """The load at which the first of the bounds, (path or function, limit), is exceeded.

        Looked for on the grid of `loads`, then between its two neighbours. Infinite where every
        load keeps within the bounds, and minus infinity where none does.
        """
        return Range([self._crossing(arguments, loads, bounds, seed) for seed in self.seeds])

    def _crossing(self, arguments, loads, bounds, seed):
        def excess(line):
            return max((f(line) if callable(f) else get(line, f)) / limit for f, limit in bounds)

        for rounds in range(1 if self.quick else 2):
            values = [excess(line) for line in self.lines(arguments, loads, seed)]
            over = next((i for i, v in enumerate(values) if v > 1), None)
            if over is None:
                return math.inf
            if over == 0:
                return -math.inf
            low, high = loads[over - 1], loads[over]
            if rounds == 0:
                loads = [low + (high - low) * i / 4 for i in range(5)]
        share = (1 - values[over - 1]) / (values[over] - values[over - 1])
        return low + share * (high - low)

    def picture(self, name, title, arguments, loads, metric, option="--rates"):
        """Draws a metric over the load, seed 1, and returns the Markdown that shows it."""
        if self.pictures is None:
            return ""
        self.pictures.mkdir(parents=True, exist_ok=True)
        self._simulate(arguments, f"--metric={metric}", "--plot", self.pictures / f"{name}.svg",
                       f"{option}={','.join(f'{load:.6g}' for load in loads)}")
        return f"![{title}](scheduling/{name}.svg)"

    def machine(self, name):
        """The figures of a machine that the simulator knows."""
        text = subprocess.run([self.binary, "simulate", "--print-cost", "--cost", name],
                              capture_output=True, text=True, check=True).stdout
        return {k.strip(): v.strip() for k, v in (l.split("=") for l in text.splitlines())}


def grid(low, high, n):
    """n loads from low to high, each so many times the one before."""
    return [low * (high / low) ** (i / (n - 1)) for i in range(n)]


def main(run):
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", default=ROOT / "build/release/bin/sluice")
    parser.add_argument("--quick", action="store_true", help="one seed, few requests: does it run?")
    parser.add_argument("--pictures", type=pathlib.Path, help="folder for an SVG picture")
    options = parser.parse_args()
    print(run(Bench(options.binary, options.quick, options.pictures)))

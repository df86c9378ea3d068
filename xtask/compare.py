#!/usr/bin/env python3
"""Compares the benchmarks of two builds of folio, interleaved in one run.

    python3 xtask/compare.py OLD NEW ROUNDS SECONDS BENCHMARK...

OLD and NEW are two executables of the command. Each round runs `bench BENCHMARK --seconds SECONDS
--json` of both, in alternating order. A row shows the medians over the rounds and the ratio of the
speeds: above 1, NEW is faster. Rows below 0.97 are marked.
"""

import collections
import json
import statistics
import subprocess
import sys


def rows(executable, benchmark, seconds):
    """Returns (name, case, threads) -> (median, unit) of one run."""
    command = [executable, "bench", benchmark, "--seconds", seconds, "--json"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    key = lambda row: (row["name"], row.get("case"), row.get("threads"))
    return {key(row): (row["median"], row.get("unit") or "") for row in json.loads(output)["rows"]}


def main():
    if len(sys.argv) < 6:
        sys.exit(__doc__)
    old, new, rounds, seconds, *benchmarks = sys.argv[1:]
    for benchmark in benchmarks:
        medians, units = collections.defaultdict(list), {}
        for turn in range(int(rounds)):
            for executable in (old, new) if turn % 2 == 0 else (new, old):
                for key, (median, unit) in rows(executable, benchmark, seconds).items():
                    medians[executable, key].append(median)
                    units[key] = unit
        for key, unit in units.items():
            if (old, key) not in medians or (new, key) not in medians:
                continue
            before = statistics.median(medians[old, key])
            after = statistics.median(medians[new, key])
            is_rate = "/s" in unit
            ratio = after / before if is_rate else before / after
            mark = "" if ratio >= 0.97 else "  <--"
            name, case, threads = key
            print(f"{benchmark:7} {name:24} {case or '':18} {threads or '':>2} threads  "
                  f"{before:12.4g} -> {after:12.4g} {unit:5} speed {ratio:.3f}{mark}")


if __name__ == "__main__":
    main()

"""`python -m benchmarks SECTION`: measure, and write the figures into docs/benchmarks.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import data_path
from .report import FILE, write_section
from .stage import proxies


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    sections = ["data-path", "neighbours", "start", "memory", "runtimes", "catalogue", "package"]
    arguments.add_argument("section", choices=sections)
    arguments.add_argument("--rounds", type=int, default=3, help="times that each figure is taken (default: 3)")
    arguments.add_argument("--seconds", type=int, default=1, help="how long each takes (default: 1)")
    arguments.add_argument("--to", type=Path, default=FILE, help="the file to write to (default: docs/benchmarks.md)")
    given = arguments.parse_args()
    if given.section == "neighbours":  # needs the engine and root, and not what the data path is compared with
        from . import neighbours

        text = neighbours.measure(seconds=3.0 * given.seconds, rounds=given.rounds, starts=10 * given.rounds)
        write_section("neighbours", text, given.to)
        return 0
    if given.section == "start":
        from . import start

        write_section("start", start.measure(starts=17 * given.rounds), given.to)
        return 0
    if given.section == "runtimes":  # needs runsc besides
        from . import runtimes

        write_section("runtimes", runtimes.measure(starts=10 * given.rounds), given.to)
        return 0
    if given.section == "catalogue":
        from . import catalogue

        write_section("catalogue", catalogue.measure(), given.to)
        return 0
    if given.section == "package":  # needs the package index
        from . import package

        write_section("package", package.measure(rounds=given.rounds), given.to)
        return 0
    if given.section == "memory":
        from . import capacity

        write_section("memory", capacity.measure(), given.to)
        return 0
    write_section("data path", data_path.measure(proxies(), rounds=given.rounds, seconds=given.seconds), given.to)
    return 0


if __name__ == "__main__":
    sys.exit(main())

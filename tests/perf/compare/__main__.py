"""Compares gptoss with llama.cpp on this machine; README.md above says how."""

import argparse
import sys
from pathlib import Path

sys.dont_write_bytecode = True

import build
import report
import throughput
import turns
from work import HERE, Work, call, unfinished

CHECKOUT = HERE.parents[2]
WEIGHTS_SIZE = 12_200_000_000


def main():
    arguments = parser().parse_args()
    try:
        arguments.command(Work(arguments.work), arguments)
    except KeyboardInterrupt:
        sys.exit(130)


def parser():
    """One subcommand for each function of that name below."""
    top = argparse.ArgumentParser(prog="compare", description=__doc__)
    top.add_argument("--work", metavar="DIR", default=CHECKOUT / "build" / "compare",
                     help="folder of everything made [default: build/compare]")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for function in (build_, weights, run, report_, clean):
        name = function.__name__.rstrip("_")
        command = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        command.set_defaults(command=function)
        if function is run:
            add_run_options(command)
        if function is clean:
            command.add_argument("--all", action="store_true", help="the results too")
    return top


def add_run_options(command):
    command.add_argument("model", metavar="MODEL", help="an installed model, or its folder")
    command.add_argument("--only", metavar="TEST,…", default="",
                         help=", ".join(test.name for test in throughput.ALL))
    command.add_argument("--pairs", metavar="N", type=int, help="at most so many of each test")


def build_(work, _arguments):
    """Fetch the pinned llama.cpp and build llama-bench and llama-server."""
    build.build(work)


def weights(work, _arguments):
    """Write gpt-oss-20b's shape with random weights for llama.cpp (12.1 GB)."""
    if not work.weights.is_file():
        work.need_room(WEIGHTS_SIZE)
        work.make_venv()
        growing = unfinished(work.weights)
        call(work.python, HERE / "weights.py", growing)
        growing.rename(work.weights)
    print(f"{work.weights}: {work.weights.stat().st_size / 1e9:.2f} GB")


def run(work, arguments):
    """Run both in turns; where results are there already, go on after them."""
    tests = throughput.chosen([name for name in arguments.only.split(",") if name],
                              arguments.pairs)
    sides = throughput.Ours(work, arguments.model), throughput.Theirs(work)
    turns.run(work, tests, sides, work.results)


def report_(work, _arguments):
    """Print medians, ratios and the bandwidth between turns."""
    report.report(work.results)


def clean(work, arguments):
    """Remove what the others made, but for the results."""
    work.clean(arguments.all)


if __name__ == "__main__":
    main()

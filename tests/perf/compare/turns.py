"""Runs two sides in turns and keeps what they measured.

A side has a `name`, the `files` of its model, and `setup()` with what must not
change within one file of results. A test has a `name`, a number of `pairs`, and
`measure(side)`. The file of results has a line for the setup and then one
for each pair: a pair is kept whole or not at all, since the two speeds compare
only when they were taken one right after the other.
"""

import json
import os
import sys
from datetime import datetime, timezone

import machine
import measured

SIDES = ("ours", "theirs")


def run(work, tests, sides, results):
    """Runs the pairs that `results` lacks."""
    setup = {"processor": machine.processor(), "cores": machine.cores()}
    setup |= {side.name: side.setup() for side in sides}
    done = resume(results, setup)
    for test, number in schedule(tests):
        if (test.name, number) in done:
            continue
        order = sides if number % 2 else tuple(reversed(sides))
        try:
            turns = {side.name: turn(work, test, side, sides) for side in order}
        except measured.Failed as error:
            sys.exit(f"compare: {error}; `run` again goes on from here")
        append(results, {"test": test.name, "pair": number, **turns})
        print(f"{test.name}, pair {number} of {test.pairs}: " + ", ".join(
            f"{name} {turn['shown']}" for name, turn in turns.items()), flush=True)


def schedule(tests):
    """The pairs, each test's spread over the whole time."""
    for number in range(1, max(test.pairs for test in tests) + 1):
        for test in tests:
            if number <= test.pairs:
                yield test, number


def turn(work, test, side, sides):
    """One side's turn, with the machine as it was right before."""
    speed = machine.bandwidth(work)
    others = [path for other in sides if other is not side for path in other.files]
    machine.trade(others, side.files)
    files_speed = machine.bandwidth_of(work, side.files)
    available = machine.memory()[1]
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"started": started, "bandwidth": speed, "files_bandwidth": files_speed,
            "available": available, **test.measure(side)}


def read(results):
    """The setup, and the pairs."""
    if not results.is_file():
        return None, []
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    return lines[0]["setup"], lines[1:]


def resume(results, setup):
    """The pairs that are there; ends the program if they are of another setup."""
    before, pairs = read(results)
    if before is None:
        append(results, {"setup": setup})
    elif before != setup:
        changed = [key for key in setup if setup[key] != before.get(key)]
        sys.exit(f"{results} was measured otherwise ({', '.join(changed)}); move it away, "
                 "as its figures do not mix with new ones")
    return {(pair["test"], pair["pair"]) for pair in pairs}


def append(results, line):
    """Adds the line so that it is on the disk when this returns."""
    results.parent.mkdir(parents=True, exist_ok=True)
    with open(results, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())

"""Prints the results as README quotes them."""

import statistics
import sys
from pathlib import Path

import build
import machine
import serving
import throughput
import turns


def report(results):
    setup, pairs = turns.read(results)
    if not pairs:
        sys.exit(f"{results} has no results; `run` measures them")
    head(setup, pairs)
    print("| what | gptoss | llama.cpp | ratio | pairs "
          "| read bandwidth: memory; our files; theirs |")
    print("|---|---|---|---|---|---|")
    for test in throughput.TESTS:
        of_test = [pair for pair in pairs if pair["test"] == test.name]
        if of_test:
            speed_row(test, of_test)
    memory_rows([pair for pair in pairs if pair["test"] == throughput.MEMORY_TEST])
    served_rows([pair for pair in pairs if pair["test"] == throughput.SERVED.name])
    foot(pairs)


def head(setup, pairs):
    """When, on what, and of what."""
    days = sorted({turn["started"][:10] for turn in all_turns(pairs)})
    ours = setup["ours"]
    print(f"{' to '.join(dict.fromkeys([days[0], days[-1]]))}, {setup['processor']}, "
          f"{setup['cores']} cores, {machine.memory()[0] / 2**30:.0f} GB of memory")
    print(f"gptoss {ours['build_version']} with {ours['model_type']}, ONNX Runtime "
          f"{ours['onnxruntime']}; llama.cpp of {pinned()}")
    print()


def pinned():
    """The archive that llama.cpp comes from."""
    lines = build.SDIST.read_text().splitlines()
    line, = (line for line in lines if not line.startswith("#"))
    return line.split()[0].replace("==", " ")


def speed_row(test, pairs):
    rates = {side: [pair[side]["rate"] for pair in pairs] for side in turns.SIDES}
    cells = [
        test.title,
        *(f"{spread(rates[side])} tokens/s" for side in turns.SIDES),
        spread([ours / theirs for ours, theirs in zip(*rates.values())]),
        str(len(pairs)),
        read_speeds(pairs),
    ]
    print(f"| {' | '.join(cells)} |")


def read_speeds(pairs):
    """Of memory before every turn, and of each side's files before its own."""
    files = [[pair[side]["files_bandwidth"] for pair in pairs] for side in turns.SIDES]
    speeds = [[turn["bandwidth"] for turn in all_turns(pairs)], *files]
    return "; ".join(spread(each, 1) for each in speeds) + " GB/s"


def memory_rows(pairs):
    """The most that any turn held; ours as `bench` says it, theirs the peak."""
    if not pairs:
        return
    context = f"context {throughput.CONTEXT}"
    for what, of_turn in (
        (f"resident, {context}", lambda turn: turn["held"]),
        (f"peak while loading included, {context}", lambda turn: turn["took"]["peak"]),
        (f"later half of the run, {context}", lambda turn: turn["took"]["later"]),
    ):
        ours, theirs = (max(of_turn(pair[side]) for pair in pairs) for side in turns.SIDES)
        print(f"| {what} | {ours / 1e9:.2f} GB | {theirs / 1e9:.2f} GB | {ours / theirs:.2f} "
              f"| {len(pairs)} | |")


def served_rows(pairs):
    """Milliseconds to a first token, theirs through ours, and what the servers held."""
    if not pairs:
        return
    speeds = read_speeds(pairs)
    counts = {turn["new_tokens"] for turn in all_turns(pairs)}
    tokens = listed(int(count) for count in counts)
    rows = {f"first token, {tokens} new ones": "new", "first token, the same again": "again"}
    for what, key in rows.items():
        times = [[statistics.median(pair[side][key]) for pair in pairs] for side in turns.SIDES]
        ratio = spread([ours / theirs for ours, theirs in zip(*times)], 3)
        ours, theirs = (spread(side, 0) for side in times)
        print(f"| {what} | {ours} ms | {theirs} ms | {ratio} | {len(pairs)} | {speeds} |")
    ours, theirs = (max(pair[side]["took"]["peak"] for pair in pairs) for side in turns.SIDES)
    print(f"| peak of the servers, context {serving.CONTEXT} | {ours / 1e9:.2f} GB "
          f"| {theirs / 1e9:.2f} GB | {ours / theirs:.2f} | {len(pairs)} | |")


def foot(pairs):
    every = all_turns(pairs)
    threads = {side: {pair[side]["threads"] for pair in pairs} for side in turns.SIDES}
    print()
    print("Medians over the pairs [least to most]; a ratio is the median of the pairs' own, "
          "ours to theirs. A turn's speed is the median of its repetitions.")
    print(f"Threads: ours {listed(threads['ours'])}, theirs {listed(threads['theirs'])}. "
          f"Other programs kept at most {max(turn['took']['others'] for turn in every):.2f} "
          f"processors busy during a turn; at least "
          f"{min(turn['available'] for turn in every) / 1e9:.1f} GB of memory were available "
          "before one.")
    print()
    for command in dict.fromkeys(quoted(turn["command"]) for turn in every):
        print(f"    {command}")


def spread(values, digits=2):
    middle, least, most = (f"{f(values):.{digits}f}" for f in (statistics.median, min, max))
    return middle if len(values) == 1 else f"{middle} [{least} to {most}]"


def listed(values):
    return ", ".join(str(value) for value in sorted(values))


def quoted(command):
    """The command without the folders of this machine."""
    return " ".join(Path(word).name if word.startswith("/") else word for word in command)


def all_turns(pairs):
    return [pair[side] for pair in pairs for side in turns.SIDES]

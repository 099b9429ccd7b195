"""Tokens per second and memory: `gptoss-ctl bench` against `llama-bench`."""

import copy
import hashlib
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import machine
import measured
import serving

CONTEXT = 8192
GENERATED = 16


@dataclass
class Test:
    """One run of each program: `prompt` tokens at once or `generate` one by one."""

    name: str
    title: str
    prompt: int
    generate: int
    depth: int
    repetitions: int
    pairs: int

    def measure(self, side):
        """A turn of `side`."""
        return side.bench(self)

    def words(self):
        """The options that both programs understand."""
        return [
            "-p", str(self.prompt), "-n", str(self.generate),
            "-d", str(self.depth), "-r", str(self.repetitions),
        ]


def decode(name, title, depth, pairs):
    return Test(name, title, 0, GENERATED, depth, 3, pairs)


def prefill(tokens, repetitions, pairs):
    title = f"prefill of {tokens} tokens"
    return Test(f"prefill-{tokens}", title, tokens, 0, 0, repetitions, pairs)


# llama-bench takes as many positions as a test needs, so the deepest one ends
# where our context does: then both hold the same cache, and memory compares.
TESTS = (
    decode("decode-16", "decode at depth 16", 16, 5),
    decode("decode-1024", "decode at depth 1024", 1024, 5),
    prefill(128, 3, 5),
    prefill(512, 3, 5),
    prefill(2048, 1, 2),
    decode("decode-8192", f"decode up to depth {CONTEXT}", CONTEXT - GENERATED, 2),
)
MEMORY_TEST = "decode-8192"
SERVED = serving.FirstToken()
ALL = (*TESTS, SERVED)


class Ours:
    """`gptoss-ctl bench`; GPTOSS_CTL, GPTOSS_STORE and ORT_DYLIB_PATH as for fullsize."""

    name = "ours"

    def __init__(self, work, model):
        self.work, self.model = work, model
        self.program = os.environ.get("GPTOSS_CTL", "target/release/gptoss-ctl")
        beside = Path(self.program).with_name("gptossd")
        self.daemon = os.environ.get("GPTOSSD", str(beside))
        self.entry = self.probe()
        target = Path(self.entry["model_filename"]).parent
        files = [*target.iterdir(), *target.parent.glob("*.safetensors")]
        self.files = [path for path in files if path.is_file()]

    def probe(self):
        """The shortest run there is: it says where the model's files are."""
        words = ["-p", "0", "-n", "1", "-r", "1", "--context", "64"]
        command = [self.program, "bench", self.model, "--json", *words]
        try:
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"compare: {error}")
        return json.loads(output.stdout)[-1]

    def setup(self):
        kept = ("build_version", "onnxruntime", "model_type", "model_filename", "n_threads")
        programs = {"program": digest(self.program)}
        if Path(self.daemon).is_file():
            programs["daemon"] = digest(self.daemon)
        return programs | {key: self.entry[key] for key in kept}

    def threads(self):
        return self.entry["n_threads"]

    def serve(self, log):
        return serving.Gptossd(self.daemon, self.program, self.model, log)

    def bench(self, test):
        command = [self.program, "bench", self.model, "--json", *test.words()]
        command += ["--context", str(CONTEXT)]
        entry, turn = bench(self, test, command)
        return turn | {"held": entry["rss_anon"] + entry["rss_file"]}


class Theirs:
    """`llama-bench` as shipped: its threads, its mapping and its repacking."""

    name = "theirs"

    def __init__(self, work):
        self.work = work
        self.program = str(work.program("llama-bench"))
        if not work.weights.is_file():
            sys.exit(f"there is no {work.weights}; `weights` makes it")
        self.files = [work.weights]

    def setup(self):
        return {"program": digest(self.program), "weights": self.work.weights.stat().st_size}

    def threads(self):
        return machine.cores()

    def serve(self, log):
        return serving.LlamaServer(str(self.work.program("llama-server")),
                                   self.work.weights, log)

    def bench(self, test):
        command = [self.program, "-m", str(self.work.weights), "-o", "json", *test.words()]
        _, turn = bench(self, test, command)
        return turn | {"held": turn["took"]["peak"]}


def bench(side, test, command):
    """The JSON that both print, and what a turn keeps of it."""
    output, took = measured.run(command, side.work.logs / f"{test.name}.{side.name}")
    entry = json.loads(output)[-1]
    rate = statistics.median(entry["samples_ts"])
    return entry, {
        "command": command,
        "rate": rate,
        "shown": f"{rate:.2f} tokens/s",
        "samples": entry["samples_ts"],
        "threads": entry["n_threads"],
        "took": took,
    }


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def chosen(names, pairs):
    """The tests of these names, all without any, with at most so many pairs."""
    unknown = set(names) - {test.name for test in ALL}
    if unknown:
        known = ", ".join(test.name for test in ALL)
        sys.exit(f"there is no test {', '.join(sorted(unknown))}; there are {known}")
    tests = [copy.copy(test) for test in ALL if not names or test.name in names]
    for test in tests:
        test.pairs = min(test.pairs, pairs or test.pairs)
    return tests

"""Time to a first token and memory: `gptossd` against `llama-server`.

Both servers say themselves how long a request took from its arrival to its
first token, so that neither client counts. Ours is asked through a bus of its
own.
"""

import contextlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import measured

CONTEXT = 8192
NEW_TOKENS = 512
REPETITIONS = 3
PORT = 18080
READY_WITHIN = 600


class FirstToken:
    """New prompts that share nothing with those before, and each once more."""

    name = "first-token"
    pairs = 3

    def measure(self, side):
        log = side.work.logs / f"{self.name}.{side.name}"
        log.parent.mkdir(parents=True, exist_ok=True)
        started, busy = time.monotonic(), measured.busy_seconds()
        own = children_seconds()
        with side.serve(log) as server:
            server.ask(0, 8)
            pairs = [(server.ask(n, NEW_TOKENS), server.ask(n, NEW_TOKENS))
                     for n in range(1, REPETITIONS + 1)]
            peak = peak_of(server.process.pid)
        seconds = time.monotonic() - started
        foreign = measured.busy_seconds() - busy - (children_seconds() - own)
        new, again = ([pair[i]["ms"] for pair in pairs] for i in (0, 1))
        return {
            "command": server.command,
            "new": new,
            "again": again,
            "new_tokens": statistics.median(pair[0]["computed"] for pair in pairs),
            "shown": f"{statistics.median(new):.0f} ms, again {statistics.median(again):.0f} ms",
            "threads": side.threads(),
            "took": {
                "seconds": round(seconds, 1),
                "others": round(max(foreign, 0.0) / seconds, 3),
                "peak": peak,
            },
        }


class Server:
    """A program that `start` begins; entered when it answers, ended at the exit."""

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.process = self.start(stack)
            wait_until(self.process, self.is_there, self.log)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *raised):
        return self.stack.__exit__(*raised)


class Gptossd(Server):
    """Our daemon with a context of 8192 and everything else as shipped."""

    def __init__(self, program, client, model, log):
        self.command = [program, "--bus", "session"]
        self.client, self.model, self.log = client, model, log

    def start(self, stack):
        address = stack.enter_context(private_bus())
        self.environment = os.environ | {"DBUS_SESSION_BUS_ADDRESS": address}
        return stack.enter_context(running(self.command, self.log, self.environment))

    def is_there(self):
        words = [self.client, "status", "--bus", "session"]
        return subprocess.run(words, env=self.environment, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, check=False).returncode == 0

    def ask(self, number, tokens):
        """A prompt of about so many tokens: a word and a space are one."""
        prompt = f"{number}" + " sea" * (tokens - 6)
        words = [self.client, "run", self.model, prompt, "--bus", "session", "--json",
                 "--temperature", "0", "--max-tokens", "1"]
        output = subprocess.run(words, env=self.environment, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, check=False).stdout
        events = [json.loads(line) for line in output.splitlines()]
        usage = [event for event in events if event["type"] == "usage"]
        if not usage:
            raise measured.Failed(f"gptossd did not answer: {events}; its words are in {self.log}")
        usage, = usage
        return {"ms": usage["queue-ms"] + usage["prefill-ms"],
                "computed": usage["prompt-tokens"] - usage["cached-tokens"]}


class LlamaServer(Server):
    """`llama-server` for one request at a time, everything else as shipped."""

    def __init__(self, program, weights, log):
        self.command = [program, "-m", str(weights), "-c", str(CONTEXT), "-np", "1",
                        "--host", "127.0.0.1", "--port", str(PORT)]
        self.log = log

    def start(self, stack):
        return stack.enter_context(running(self.command, self.log, None))

    def is_there(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def ask(self, number, tokens):
        """A prompt of exactly so many tokens."""
        ids = random.Random(number)
        body = {"prompt": [ids.randrange(1000, 100_000) for _ in range(tokens)],
                "n_predict": 1, "temperature": 0, "cache_prompt": True}
        request = urllib.request.Request(f"http://127.0.0.1:{PORT}/completion",
                                         json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=READY_WITHIN) as answer:
            timings = json.load(answer)["timings"]
        return {"ms": timings["prompt_ms"], "computed": timings["prompt_n"]}


@contextlib.contextmanager
def private_bus():
    """A session bus that nobody else uses; its address."""
    words = ["dbus-daemon", "--session", "--nofork", "--print-address"]
    try:
        bus = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    except OSError as error:
        sys.exit(f"compare: {error}; install the package dbus")
    try:
        yield bus.stdout.readline().strip()
    finally:
        end(bus)


@contextlib.contextmanager
def running(command, log, environment):
    """A program until the block ends."""
    with open(log, "wb") as words:
        try:
            process = subprocess.Popen(command, stdout=words, stderr=words, env=environment)
        except OSError as error:
            sys.exit(f"compare: {error}")
        try:
            yield process
        finally:
            end(process)


def end(process):
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_until(process, is_there, log):
    end_of_patience = time.monotonic() + READY_WITHIN
    while not is_there():
        if process.poll() is not None or time.monotonic() > end_of_patience:
            raise measured.Failed(f"the server did not come up; its words are in {log}")
        time.sleep(0.2)


def peak_of(pid):
    """The most memory that the process held so far, mapped files included."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = dict(line.split(":", 1) for line in lines)
    return int(sizes["VmHWM"].split()[0]) << 10


def children_seconds():
    """What the processor spent on programs that this one has started and seen end."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime

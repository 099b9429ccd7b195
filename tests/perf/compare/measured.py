"""Runs a program, watches the memory it holds and what else uses the processor."""

import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

PERIOD = 0.5


class Failed(Exception):
    """The program ended with an error; the text says where its words are."""


def run(command, log):
    """Its output, and what it took (see `memory` and `others`)."""
    log.parent.mkdir(parents=True, exist_ok=True)
    started, busy = time.monotonic(), busy_seconds()
    with tempfile.TemporaryFile() as output, open(log, "wb") as words:
        child = subprocess.Popen(command, stdout=output, stderr=words)
        try:
            looks, usage = watch(child)
        except BaseException:
            child.kill()
            child.wait()
            raise
        output.seek(0)
        printed = output.read()
    if child.returncode != 0:
        raise Failed(f"{command[0]} ended with {child.returncode}; its words are in {log}")
    seconds = time.monotonic() - started
    foreign = busy_seconds() - busy - usage.ru_utime - usage.ru_stime
    took = {"seconds": round(seconds, 1), "others": round(max(foreign, 0.0) / seconds, 3)}
    return printed, took | memory(looks, usage.ru_maxrss << 10)


def busy_seconds():
    """Of all processors together, and of what other guests took from this one.

    Less the program's own, per second of its run, that is how many processors
    something else kept busy: a figure far from 0 says that the turn is worth
    nothing.
    """
    user, nice, system, _idle, _waiting, irq, softirq, stolen = (
        int(field) for field in Path("/proc/stat").read_text().split()[1:9]
    )
    return (user + nice + system + irq + softirq + stolen) / os.sysconf("SC_CLK_TCK")


def watch(child):
    """Looks at the program's memory until it ends."""
    looks = []
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return looks, usage
        looks += look(child.pid)
        time.sleep(PERIOD)


def look(pid):
    """Own memory and mapped files; nothing where the program is ending."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = dict(line.split(":", 1) for line in lines if line.startswith("Rss"))
    if not sizes:
        return []
    own, mapped, shared = (
        int(sizes[name].split()[0]) << 10 for name in ("RssAnon", "RssFile", "RssShmem")
    )
    return [(own + shared, mapped)]


def memory(looks, peak):
    """The peak in bytes, its parts, and the median of the run's later half.

    The peak is the kernel's own, so none is missed between two looks; its parts
    are those of the look that found most. The later half leaves out what is only
    held to load the model.
    """
    own, mapped = max(looks, key=sum, default=(0, 0))
    later = [sum(one) for one in looks[len(looks) // 2 :]]
    return {
        "peak": peak,
        "peak_own": own,
        "peak_mapped": mapped,
        "later": int(statistics.median(later)) if later else 0,
    }

"""What the machine is and how fast it is at the moment."""

import os
import subprocess
from pathlib import Path

GIGABYTES_READ = 2
# In a guest whose host takes back free pages, those just given to the page cache are slow
# at first; both programs map files that have been read that often.
FILE_PASSES = 5


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown processor"


def cores():
    """Physical cores that may be used: both programs take as many threads."""
    groups = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        groups.add(siblings.read_text().strip() if siblings.is_file() else str(cpu))
    return len(groups)


def memory():
    """Bytes in all, and bytes that a new program could have."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return [int(fields[name].split()[0]) << 10 for name in ("MemTotal", "MemAvailable")]


def bandwidth(work):
    """Gigabytes a second that all cores together read from memory."""
    return meter(work, str(GIGABYTES_READ))


def bandwidth_of(work, files):
    """The same, from files that are in the page cache, where a program maps them."""
    return meter(work, str(FILE_PASSES), *files)


def meter(work, *words):
    command = [work.program("bandwidth"), str(cores()), *words]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def warm(files):
    """Reads the files, so that the page cache has them before they are mapped."""
    for path in files:
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def cool(files):
    """Drops the files from the page cache: there is room for one model alone."""
    for path in files:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

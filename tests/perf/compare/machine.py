"""What the machine is and how fast it is at the moment."""

import os
import subprocess
from pathlib import Path

GIGABYTES_READ = 2
# Pages that a host has just given to its guest are slow until they have been read often.
FILE_PASSES = 20
PIECE = 64 << 20
READ = 16 << 20


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


def trade(leaving, coming):
    """Has the page cache hold the files `coming` instead of those `leaving`: there is
    room for one model alone.

    A piece goes for each that comes, so that its pages are used again at once. All of
    them free together would be taken back by the host of a guest that reports free
    pages, and be slow when it gives them again.
    """
    going = pieces(leaving)
    for file, at in pieces(coming):
        drop(next(going, None))
        os.lseek(file, at, os.SEEK_SET)
        for _ in range(PIECE // READ):
            os.read(file, READ)
    for piece in going:
        drop(piece)


def pieces(files):
    """Each file, open, and where a piece of it begins."""
    for path in files:
        with open(path, "rb", buffering=0) as file:
            for at in range(0, os.fstat(file.fileno()).st_size, PIECE):
                yield file.fileno(), at


def drop(piece):
    if piece is not None:
        os.posix_fadvise(*piece, PIECE, os.POSIX_FADV_DONTNEED)

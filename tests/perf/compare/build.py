"""Builds llama.cpp's two programs, and the meter of the memory's bandwidth."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from work import HERE, call

SDIST = HERE / "llama-cpp-python.txt"
TARGETS = ("llama-bench", "llama-server")
# As shipped for this processor. Off is what fetches from the network and what
# neither program needs.
OPTIONS = (
    "CMAKE_BUILD_TYPE=Release",
    "GGML_NATIVE=ON",
    "BUILD_SHARED_LIBS=OFF",
    "LLAMA_OPENSSL=OFF",
    "LLAMA_USE_PREBUILT_UI=OFF",
    "LLAMA_BUILD_UI=OFF",
    "LLAMA_BUILD_APP=OFF",
    "LLAMA_BUILD_TESTS=OFF",
    "LLAMA_BUILD_EXAMPLES=OFF",
)
SIZE = 1 << 30
# Of gcc's bug 114098 with AMX's tiles, which lets llama.cpp die at its first product:
# the first releases of each series without it.
MENDED = {11: 5, 12: 4, 13: 3}
CLANGS = ("clang-19", "clang-18", "clang-17", "clang-16", "clang")


def compilers():
    """Options that name them: none but where the processor has AMX and gcc spoils it."""
    if not re.search(r"\bamx_tile\b", Path("/proc/cpuinfo").read_text()):
        return ()
    version = subprocess.run(["gcc", "-dumpfullversion"], check=True, text=True,
                             stdout=subprocess.PIPE).stdout
    series, release = (int(number) for number in version.split(".")[:2])
    if series > max(MENDED) or release >= MENDED.get(series, 99):
        return ()
    for clang in CLANGS:
        if shutil.which(clang):
            return (f"CMAKE_C_COMPILER={clang}",
                    f"CMAKE_CXX_COMPILER={clang.replace('clang', 'clang++')}")
    sys.exit(f"compare: gcc {version.strip()} makes a llama.cpp that dies on processors with "
             "AMX (gcc's bug 114098); install clang and libomp-dev, or a newer gcc")


def build(work):
    """Makes what is not there yet."""
    work.programs.mkdir(parents=True, exist_ok=True)
    build_meter(work)
    options = (*OPTIONS, *compilers())
    recipe = "\n".join([SDIST.read_text(), *options])
    done = work.programs / "recipe"
    if done.is_file() and done.read_text() == recipe:
        print(f"{' and '.join(TARGETS)} are in {work.programs}")
        return
    work.need_room(SIZE)
    work.make_venv()
    fetch(work)
    compile_programs(work, options)
    done.write_text(recipe)
    print(f"{' and '.join(TARGETS)} are in {work.programs}")


def build_meter(work):
    call("gcc", "-O3", "-march=native", "-pthread", "-o", work.programs / "bandwidth",
         HERE / "bandwidth.c")


def fetch(work):
    """Unpacks llama.cpp out of the pinned archive; pip proves its hash."""
    with tempfile.TemporaryDirectory() as scratch:
        call(work.python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
             "--no-deps", "--no-binary", "llama-cpp-python", "--require-hashes",
             "--dest", scratch, "--requirement", SDIST)
        archive, = Path(scratch).glob("*.tar.gz")
        top = archive.name.removesuffix(".tar.gz")
        work.sources.mkdir(exist_ok=True)
        call("tar", "-xzf", archive, "-C", work.sources, "--strip-components", "3",
             f"{top}/vendor/llama.cpp")


def compile_programs(work, options):
    # CMake does not change compilers where it has been before.
    shutil.rmtree(work.objects, ignore_errors=True)
    cmake = work.venv / "bin" / "cmake"
    call(cmake, "-S", work.sources, "-B", work.objects, *[f"-D{option}" for option in options])
    jobs = len(os.sched_getaffinity(0))
    call(cmake, "--build", work.objects, "--target", *TARGETS, "-j", jobs)
    for name in TARGETS:
        call("cp", work.objects / "bin" / name, work.programs / name)

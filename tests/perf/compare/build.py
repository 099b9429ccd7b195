"""Builds llama.cpp's two programs, and the meter of the memory's bandwidth."""

import os
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


def build(work):
    """Makes what is not there yet."""
    work.programs.mkdir(parents=True, exist_ok=True)
    build_meter(work)
    recipe = "\n".join([SDIST.read_text(), *OPTIONS])
    done = work.programs / "recipe"
    if done.is_file() and done.read_text() == recipe:
        print(f"{' and '.join(TARGETS)} are in {work.programs}")
        return
    work.need_room(SIZE)
    work.make_venv()
    fetch(work)
    compile_programs(work)
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


def compile_programs(work):
    cmake = work.venv / "bin" / "cmake"
    call(cmake, "-S", work.sources, "-B", work.objects, *[f"-D{option}" for option in OPTIONS])
    jobs = len(os.sched_getaffinity(0))
    call(cmake, "--build", work.objects, "--target", *TARGETS, "-j", jobs)
    for name in TARGETS:
        call("cp", work.objects / "bin" / name, work.programs / name)

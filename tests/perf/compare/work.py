"""Where everything of the comparison lies, and whether there is room for it."""

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEPT_FREE = 8 << 30


class Work:
    """The work folder. Only `clean` removes what the others put there."""

    def __init__(self, folder):
        self.folder = Path(folder).resolve()
        self.venv = self.folder / "venv"
        self.sources = self.folder / "llama.cpp"
        self.objects = self.folder / "objects"
        self.programs = self.folder / "bin"
        self.weights = self.folder / "gpt-oss-20b.gguf"
        self.results = self.folder / "results.jsonl"
        self.logs = self.folder / "logs"

    @property
    def python(self):
        """The Python that has `gguf` and numpy."""
        return self.venv / "bin" / "python"

    def program(self, name):
        """A program that `build` made."""
        path = self.programs / name
        if not path.is_file():
            sys.exit(f"there is no {path}; `build` makes it")
        return path

    def make_venv(self):
        """Installs the pinned packages, once for each state of the list."""
        wanted = HERE / "requirements.txt"
        done = self.venv / "requirements.txt"
        if done.is_file() and done.read_bytes() == wanted.read_bytes():
            return
        call(sys.executable, "-m", "venv", self.venv)
        call(self.python, "-m", "pip", "install", "--quiet",
             "--disable-pip-version-check", "--requirement", wanted)
        shutil.copyfile(wanted, done)

    def need_room(self, size):
        """Ends the program where `size` bytes would leave the disk too full."""
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < size + KEPT_FREE:
            sys.exit(f"{self.folder} has {free / 1e9:.1f} GB free; {size / 1e9:.1f} are wanted "
                     f"and {KEPT_FREE / 1e9:.1f} shall stay free")

    def clean(self, everything):
        """Removes what can be made again, and the results if `everything`."""
        for folder in (self.venv, self.sources, self.objects, self.programs, self.logs):
            shutil.rmtree(folder, ignore_errors=True)
        files = [self.weights, unfinished(self.weights)]
        for file in [*files, self.results] if everything else files:
            file.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def unfinished(path):
    """Where a file grows until it is whole."""
    return path.with_name(path.name + ".part")


def call(*command, **options):
    """Runs a command that has to succeed."""
    try:
        return subprocess.run([str(word) for word in command], check=True, **options)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"compare: {error}")

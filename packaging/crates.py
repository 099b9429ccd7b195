# SPDX-License-Identifier: Apache-2.0
"""Which crates the two programs are built from, by cargo's own word."""

import json
import subprocess

# The programs, by the feature that each is built with alone.
PROGRAMS = {"gptossd": "daemon", "gptoss-ctl": "ctl"}


def compiler():
    """rustc's answer to `-vV`: `host`, `release` and the like."""
    answer = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
    return dict(line.split(": ", 1) for line in answer.splitlines() if ": " in line)


def cargo(*arguments):
    """What cargo says."""
    command = ["cargo", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


class Linked:
    """Packages whose code is in a program: no macros, no build scripts, no tests.

    `cargo metadata` knows all about a package, but not which ones a program is built
    from: it enables what tests need, too. That is `cargo tree`'s to say.
    """

    def __init__(self, feature):
        known = {(package["name"], package["version"]): package
                 for package in json.loads(cargo("metadata", "--locked", "--format-version", "1",
                                                 "--filter-platform", compiler()["host"],
                                                 "--features", feature))["packages"]}
        tree = cargo("tree", "--locked", "--package", "gptoss", "--no-default-features",
                     "--features", feature, "--edges", "normal,no-proc-macro",
                     "--prefix", "depth", "--format", " {p}")
        self.packages, self.edges, path = {}, {}, []
        # `2 serde v1.0.0`, below whatever needs it; what was listed before ends in `(*)`.
        for line in filter(None, tree.splitlines()):
            depth, name, version = line.split()[:3]
            key = name, version.removeprefix("v")
            del path[int(depth):]
            if path:
                self.edges[path[-1]].add(key)
            path.append(key)
            self.packages[key] = known[key]
            self.edges.setdefault(key, set())
        self.root = path[0]

    def published(self):
        """Those that are not of this workspace."""
        return [package for package in self.packages.values() if package["source"]]

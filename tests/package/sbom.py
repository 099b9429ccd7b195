# SPDX-License-Identifier: Apache-2.0
"""The bill of materials: valid by CycloneDX's own schema, the same every time, with
the crates that cargo lists for each program and with whatever a built one names."""

import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PROGRAMS = {"gptossd": "daemon", "gptoss-ctl": "ctl"}


def made():
    """The bill's text."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "sbom"
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "1754400000"}
        subprocess.run([ROOT / "packaging/sbom", file], check=True, cwd=ROOT, env=environment)
        return file.read_text()


def listed(feature):
    """Crates that `cargo tree` finds in a program, macros left out."""
    tree = subprocess.run(
        ["cargo", "tree", "--locked", "--package", "gptoss", "--no-default-features",
         "--features", feature, "--edges", "normal,no-proc-macro", "--prefix", "none",
         "--format", "{p}"],
        check=True, cwd=ROOT, capture_output=True, text=True).stdout
    crates = {tuple(line.split()[:2]) for line in tree.splitlines() if line}
    return {(name, version.removeprefix("v")) for name, version in crates}


def named(binary):
    """Crates whose source files the binary names: in its panics' places, where more of the
    path follows, and in debugging symbols, where the folder ends."""
    found = re.findall(rb"index\.crates\.io-[0-9a-f]+/([0-9A-Za-z_-]+?)-"
                       rb"(\d+\.\d+\.\d+[0-9A-Za-z.+-]*)[/\0]",
                       pathlib.Path(binary).read_bytes())
    return {(name.decode(), version.decode()) for name, version in found}


def main():
    """Runs every check."""
    text = made()
    assert text == made(), "the same source makes another bill"
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert error is None, error
    broken = text.replace('"type": "application"', '"type": "programme"')
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(broken), "the validator can say no"

    bill = json.loads(text)
    parts = {part["name"]: part for part in bill["components"]}
    for program, feature in PROGRAMS.items():
        inside = {(crate["name"], crate["version"]) for crate in parts[program]["components"]}
        inside = {crate for crate in inside if crate[0] != "rust-std"}
        expected = {crate for crate in listed(feature) if crate[0] != "gptoss"}
        assert len(expected) > 30, expected
        assert inside == expected, inside ^ expected
        for crate in parts[program]["components"]:
            if crate["name"] not in ("rust-std", "gptoss-onnx"):
                assert len(crate["hashes"][0]["content"]) == 64, crate
    assert "rustls" in {crate["name"] for crate in parts["gptoss-ctl"]["components"]}
    assert "rustls" not in {crate["name"] for crate in parts["gptossd"]["components"]}

    refs = {bill["metadata"]["component"]["bom-ref"]}
    todo = list(bill["components"])
    while todo:
        part = todo.pop()
        assert part["bom-ref"] not in refs, part["bom-ref"]
        refs.add(part["bom-ref"])
        todo.extend(part.get("components", []))
    for edge in bill["dependencies"]:
        unknown = {edge["ref"], *edge["dependsOn"]} - refs
        assert not unknown, unknown

    if binary := os.environ.get("GPTOSSD"):
        held = named(binary)
        inside = {(crate["name"], crate["version"]) for crate in parts["gptossd"]["components"]}
        assert len(held) > 20, held
        assert held <= inside, held - inside

    library = os.environ.get("ORT_DYLIB_PATH")
    if library:
        digest = hashlib.sha256(pathlib.Path(library).read_bytes()).hexdigest()
        files = parts["onnxruntime"]["components"]
        assert digest in [file["hashes"][0]["content"] for file in files], digest
    print(f"the bill of materials is valid: {len(refs)} components")


sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""The LaunchAgent for macOS: a property list that says what launchd knows, with the
folders that it was made for, and the socket that the programs look for by themselves."""

import os
import pathlib
import plistlib
import re
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
AGENT = ROOT / "packaging/macos/agent"
INSTALL = ROOT / "packaging/macos/install"

# An older daemon that goes when it was asked for twice, as launchctl tells of it.
LAUNCHCTL = """#!/bin/sh
echo "$1" >>"$CALLS"
here=$(grep -c print "$CALLS")
case $1 in
print) [ "$here" -lt 2 ] ;;
bootstrap) [ "$here" -ge 2 ] ;;
esac
"""

# What launchd.plist(5) says that these are.
KEYS = {
    "Label": str, "ProgramArguments": list, "EnvironmentVariables": dict,
    "RunAtLoad": bool, "KeepAlive": dict, "ThrottleInterval": int, "ProcessType": str,
    "Umask": int, "SoftResourceLimits": dict, "ExitTimeOut": int,
    "StandardOutPath": str, "StandardErrorPath": str,
}


def agent(*folders):
    made = subprocess.run(["sh", AGENT, *folders], check=True, capture_output=True)
    return plistlib.loads(made.stdout, fmt=plistlib.FMT_XML)


def constant(file, name):
    text = (ROOT / file).read_text()
    return re.search(rf'\b{name}: &str = "([^"]*)"', text)[1]


def test_keys():
    job = agent("/usr/local", "/Users/u")
    assert {key: type(value) for key, value in job.items()} == KEYS
    assert job["Label"] == "org.gptoss.Daemon1"
    assert job["ProcessType"] == "Interactive"
    assert job["Umask"] == 0o077
    assert job["KeepAlive"] == {"SuccessfulExit": False}
    assert not any("@" in str(value) for value in job.values()), job


def test_folders():
    # Whatever a folder may be called.
    for prefix, home in [
        ("/usr/local", "/Users/u"),
        ("/opt/a b/", "/Users/R&D <x> | \\1 'quoted'"),
        ("/é", "/Users/山"),
    ]:
        job = agent(prefix, home)
        program, flag, socket = job["ProgramArguments"]
        prefix = prefix.rstrip("/")
        assert program == f"{prefix}/lib/gptoss/gptossd"
        assert flag == "--socket"
        assert socket == f"{home}/Library/Application Support/gptoss/socket"
        library = job["EnvironmentVariables"]["ORT_DYLIB_PATH"]
        assert library.startswith(f"{prefix}/lib/gptoss/")
        assert job["StandardErrorPath"].startswith(f"{home}/Library/Logs/gptoss/")
    refused = subprocess.run(["sh", AGENT, "relative", "/u"], capture_output=True)
    assert refused.returncode == 2


def test_the_programs_know_the_same_names():
    job = agent("/usr/local", "/Users/u")
    library = pathlib.PurePath(job["EnvironmentVariables"]["ORT_DYLIB_PATH"])
    assert library.name == constant("src/platform/macos.rs", "RUNTIME_FILE")
    assert str(library.parent) == constant("src/platform/macos.rs", "RUNTIME_FOLDER")
    support = constant("src/platform/folders.rs", "APPLICATION_SUPPORT")
    assert job["ProgramArguments"][2] == f"/Users/u/{support}/gptoss/socket"


def test_an_older_daemon_goes_before_the_new_one_comes():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        programs = folder / "target/release"
        programs.mkdir(parents=True)
        for program in "gptoss-ctl", "gptossd", "library":
            (programs / program).write_text(program)
        launchctl = folder / "path/launchctl"
        launchctl.parent.mkdir()
        launchctl.write_text(LAUNCHCTL)
        launchctl.chmod(0o755)
        environment = {
            "PATH": f"{launchctl.parent}:{os.environ['PATH']}", "HOME": f"{folder}/home",
            "PREFIX": f"{folder}/prefix", "CARGO_TARGET_DIR": f"{folder}/target",
            "CALLS": f"{folder}/calls",
        }
        subprocess.run(
            ["sh", INSTALL, programs / "library"], env=environment, check=True, capture_output=True,
        )
        calls = (folder / "calls").read_text().split()
        assert calls == ["bootout", "print", "print", "bootstrap"], calls
        library = folder / "prefix/lib/gptoss/libonnxruntime.1.31.1.dylib"
        assert library.read_text() == "library"
        agent = folder / "home/Library/LaunchAgents/org.gptoss.Daemon1.plist"
        job = plistlib.loads(agent.read_bytes())
        assert job["ProgramArguments"][0] == f"{folder}/prefix/lib/gptoss/gptossd"


if __name__ == "__main__":
    tests = [test for name, test in sorted(globals().items()) if name.startswith("test_")]
    for test in tests:
        test()
    print(f"{len(tests)} passed, 0 failed")

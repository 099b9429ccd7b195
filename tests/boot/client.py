#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What the boot test needs of a client and no command-line tool does.

    client.py hold QUESTION                 a session and a long answer in it; tells how it grows
    client.py call PATH INTERFACE METHOD    one call without options; prints what came of it
    client.py tree                          every object path that introspection shows
"""

import json
import os
import sys
import xml.etree.ElementTree as ElementTree

import dbus

NAME = "org.gptoss.Daemon1"
ROOT = "/org/gptoss/Daemon1"
# An answer of this form is long, whatever the model would rather say.
LONG = {"type": "array", "items": {"type": "integer"}, "minItems": 100000}
METHODS = {"Cancel": ("", ()), "Close": ("", ()), "History": ("a{sv}", ({},)),
           "Fork": ("a{sv}", ({},)),
           "Prompt": ("aa{sv}a{sv}", ([{"role": "user", "content": "Hello!"}], {}))}


def call(bus, path, interface, method, signature, arguments):
    """One call; the answer's values."""
    return bus.call_blocking(NAME, path, f"{NAME}.{interface}", method, signature, arguments)


def say(**what):
    """One line, at once: the test reads along."""
    print(json.dumps(what), flush=True)


def hold(bus, question):
    """Tells the paths first, then how the answer grows, and how it ends."""
    options = {"handle-token": "secret", "response-schema": json.dumps(LONG)}
    session = call(bus, ROOT, "Manager", "CreateSession", "a{sv}", (options,))
    messages = [{"role": "user", "content": question}]
    request, stream = call(bus, session, "Session", "Prompt", "aa{sv}a{sv}",
                           (messages, {"handle-token": "secret"}))
    say(session=session, request=request)
    with os.fdopen(stream.take(), encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            event = json.loads(line)
            if event["type"] == "delta" and number % 100 == 0:
                say(events=number)
            if event["type"] in ("end", "error"):
                say(**event)
                return
    say(type="cut")


def attempt(bus, path, interface, method):
    """Prints `done`, or the error's name."""
    try:
        call(bus, path, interface, method, *METHODS[method])
        print("done")
    except dbus.DBusException as error:
        print(error.get_dbus_name(), error.get_dbus_message())


def tree(bus, path="/"):
    """Prints a path and those below it, whether a node tells of all of them or
    of the next ones only."""
    print(path)
    xml = bus.call_blocking(NAME, path, "org.freedesktop.DBus.Introspectable", "Introspect", "", ())
    for child in ElementTree.fromstring(xml).findall("node"):
        tree(bus, f"{path.rstrip('/')}/{child.get('name')}")


def main():
    """One of the three."""
    bus = dbus.SystemBus()
    mode, *arguments = sys.argv[1:]
    {"hold": hold, "call": attempt, "tree": tree}[mode](bus, *arguments)


main()

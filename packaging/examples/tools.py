#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A conversation with a tool, in Python (Debian: python3-dbus).

    ./tools.py [--system] QUESTION...

The daemon executes nothing: this program does, and gives back what came of it.
"""

import json
import os
import sys

import dbus

TOOLS = [{
    "type": "function",
    "name": "weather",
    "description": "The weather in a city, now.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}]


def weather(city):
    """Would ask a service."""
    return json.dumps({"city": city, "degrees": 18, "sky": "clear"})


def options(**values):
    """`max_output_tokens=5` as the daemon wants it."""
    return dbus.Dictionary({name.replace("_", "-"): value for name, value in values.items()},
                           signature="sv")


def user(text):
    """One message."""
    message = dbus.Dictionary({"role": "user", "content": text}, signature="sv")
    return dbus.Array([message], signature="a{sv}")


def follow(stream):
    """Prints an answer as it comes; returns the calls it ends with."""
    calls, arguments = [], ""
    with os.fdopen(stream.take(), encoding="utf-8") as lines:
        for line in lines:
            event = json.loads(line)
            kind = event["type"]
            if kind == "delta":
                print(event["text"], end="", flush=True)
            elif kind == "tool-call-delta":
                arguments += event["arguments"]
            elif kind == "tool-call":
                calls.append((event["id"], event["name"], arguments + event["arguments"]))
                arguments = ""
            elif kind == "error":
                sys.exit(f"{event['name']}: {event['message']}")
            elif kind == "end":
                print()
                return calls
            # Later versions may send others.
    sys.exit("gptossd died in the middle of the answer")


def main():
    """One question, as many calls as it takes."""
    arguments = sys.argv[1:]
    system = "--system" in arguments
    question = " ".join(a for a in arguments if a != "--system")
    bus = dbus.SystemBus() if system else dbus.SessionBus()

    def interface(path, name):
        return dbus.Interface(bus.get_object("org.gptoss.Daemon1", path),
                              f"org.gptoss.Daemon1.{name}")

    manager = interface("/org/gptoss/Daemon1", "Manager")
    path = manager.CreateSession(options(tools=json.dumps(TOOLS)))
    session = interface(path, "Session")
    _request, stream = session.Prompt(user(question), options())
    while calls := follow(stream):
        results = []
        for call, name, arguments in calls:
            print(f"[{name} {arguments}]")
            results.append((call, weather(**json.loads(arguments)), options()))
        results = dbus.Array(results, signature="(ssa{sv})")
        _request, stream = session.SubmitToolResults(results, options())
    session.Close()


main()

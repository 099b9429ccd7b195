#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What an application in Python sees of a daemon with the model nano.

    ./dialogues.py onnx/nano/taught.json      on $DBUS_SESSION_BUS_ADDRESS

Every sentence that nano was taught is asked for: in one turn at three efforts, in
two turns, in forks, with tools, with a schema, within a budget. Uses python3-dbus.
"""

import json
import os
import sys
import unittest

import dbus

BUS = dbus.SessionBus()


def interface(path, name):
    """One of the daemon's interfaces."""
    return dbus.Interface(BUS.get_object("org.gptoss.Daemon1", path), f"org.gptoss.Daemon1.{name}")


MANAGER = interface("/org/gptoss/Daemon1", "Manager")


def options(**values):
    """`max_output_tokens=5` as the daemon wants it; Python's numbers are too wide."""
    names = {name.replace("_", "-"): value for name, value in values.items()}
    for name, value in names.items():
        if isinstance(value, int) and not isinstance(value, bool):
            names[name] = dbus.UInt32(value)
    return dbus.Dictionary(names, signature="sv")


def greedy(**values):
    """The same answer every time, with its reasoning."""
    return options(temperature=0.0, show_reasoning=True, **values)


def user(text):
    """One message."""
    return dbus.Array([dbus.Dictionary({"role": "user", "content": text}, signature="sv")],
                      signature="a{sv}")


def results(answers):
    """What the tools gave: pairs of a call's id and a text."""
    return dbus.Array([(call, text, options()) for call, text in answers],
                      signature="(ssa{sv})")


class Answer:
    """All of one stream."""

    def __init__(self, reply):
        _request, stream = reply
        self.channels, self.calls, self.kinds = {}, [], []
        with os.fdopen(stream.take(), encoding="utf-8") as lines:
            for line in lines:
                self.take(json.loads(line))
        assert self.kinds[-1] in ("end", "error"), self.kinds

    def take(self, event):
        """One line."""
        kind = event["type"]
        self.kinds.append(kind)
        if kind == "start":
            self.start = event
        elif kind == "delta":
            channel = event["channel"]
            self.channels[channel] = self.channels.get(channel, "") + event["text"]
        elif kind == "tool-call":
            self.calls.append((event["id"], event["name"], event["arguments"]))
        elif kind == "usage":
            self.usage = event
        elif kind == "end":
            self.finish = event["finish-reason"]
        elif kind == "error":
            raise AssertionError(event)

    @property
    def messages(self):
        """As the taught examples have them."""
        said = [{"channel": c, "text": t} for c, t in self.channels.items()]
        return said + [{"channel": "commentary", "recipient": f"functions.{name}", "text": arguments}
                       for _id, name, arguments in self.calls]


def taught(kind):
    """The examples of one kind."""
    with open(sys.argv[1], encoding="utf-8") as file:
        examples = [e for e in json.load(file) if e["kind"] == kind]
    assert examples, kind
    return examples


def asked(example):
    """The options of an example."""
    values = {"reasoning_effort": example["effort"]}
    if example.get("tools"):
        values["tools"] = json.dumps(example["tools"])
    if example.get("response_schema"):
        values["response_schema"] = json.dumps(example["response_schema"])
    return greedy(**values)


class Dialogues(unittest.TestCase):
    """Against the taught sentences, word for word."""

    maxDiff = None

    def test_one_turn_at_every_effort(self):
        """492 prompts; the analysis grows with the effort, the answer stays."""
        spent = {"low": 0, "medium": 0, "high": 0}
        for example in taught("prompt"):
            if any(m["role"] != "user" for m in example["messages"]):
                continue
            answer = Answer(MANAGER.Generate(user(example["messages"][0]["content"]),
                                             asked(example)))
            self.assertEqual(answer.messages, example["expect"])
            self.assertEqual(answer.finish, "stop")
            spent[example["effort"]] += answer.usage["reasoning-tokens"]
        self.assertLess(spent["low"], spent["medium"])
        self.assertLess(spent["medium"], spent["high"])

    def test_two_turns(self):
        """The daemon keeps the first one, and computes only what is new."""
        for example in taught("dialogue"):
            first, analysis, said, second = example["messages"]
            path = MANAGER.CreateSession(greedy(reasoning_effort=example["effort"]))
            session = interface(path, "Session")
            answer = Answer(session.Prompt(user(first["content"]), options()))
            self.assertEqual(answer.channels, {"analysis": analysis["content"],
                                               "final": said["content"]})
            before = answer.start["prompt-tokens"]
            answer = Answer(session.Prompt(user(second["content"]), options()))
            self.assertEqual(answer.messages, example["expect"])
            # The first turn's analysis is left out now: what was before it is
            # taken over, and perhaps a little more.
            self.assertGreaterEqual(answer.start["cached-tokens"], before)
            shown = session.History(options())
            self.assertEqual([m["role"] for m in shown], ["user", "assistant"] * 2)
            session.Close()

    def test_forks_go_their_own_ways(self):
        """Both branches have the first turn, neither has the other's second."""
        dialogues = [e for e in taught("dialogue") if e["effort"] == "medium"]
        for one, other in zip(dialogues, dialogues[1:]):
            first = one["messages"][0]["content"]
            session = interface(MANAGER.CreateSession(greedy()), "Session")
            Answer(session.Prompt(user(first), options()))
            fork = interface(session.Fork(options()), "Session")
            answer = Answer(fork.Prompt(user(one["messages"][3]["content"]), options()))
            self.assertEqual(answer.messages, one["expect"])
            self.assertGreater(answer.start["cached-tokens"], 0)
            Answer(session.Prompt(user(other["messages"][0]["content"]), options()))
            said = [[m["content"] for m in s.History(options()) if m["role"] == "user"]
                    for s in (session, fork)]
            self.assertEqual(said, [[first, other["messages"][0]["content"]],
                                    [first, one["messages"][3]["content"]]])
            fork.Close()
            session.Close()

    def test_tools(self):
        """The call, and what is made of its result, in one turn of a session."""
        for example in taught("tool-answer"):
            question, thought, call, result = example["messages"]
            session = interface(MANAGER.CreateSession(asked(example)), "Session")
            answer = Answer(session.Prompt(user(question["content"]), options()))
            self.assertEqual(answer.finish, "tool-calls")
            self.assertEqual(answer.channels, {"analysis": thought["content"]})
            name = call["recipient"].removeprefix("functions.")
            self.assertEqual([c[1:] for c in answer.calls], [(name, call["content"])])
            given = results([(answer.calls[0][0], result["content"])])
            answer = Answer(session.SubmitToolResults(given, options()))
            self.assertEqual(answer.messages, example["expect"])
            self.assertEqual(answer.finish, "stop")
            session.Close()

    def test_schemas(self):
        """Held to its schema nano says what it would have said."""
        for example in taught("json"):
            answer = Answer(MANAGER.Generate(user(example["messages"][0]["content"]),
                                             asked(example)))
            self.assertEqual(answer.messages, example["expect"])

    def test_budgets(self):
        """Reasoning ends where it must, and the answer comes all the same."""
        asked, silent = 0, 0
        for example in taught("prompt"):
            if example["effort"] != "high" or len(example["messages"]) > 1 or example.get("tools"):
                continue
            text = user(example["messages"][0]["content"])
            for budget in (0, 3):
                limited = greedy(reasoning_effort="high", max_reasoning_tokens=budget)
                answer = Answer(MANAGER.Generate(text, limited))
                # A character of several tokens is not torn.
                most = budget + 3 if budget else 0
                self.assertLessEqual(answer.usage["reasoning-tokens"], most)
                self.assertEqual(answer.finish, "stop")
                # The way to the answer is whole; what nano then says nobody has taught it.
                words = answer.kinds.index("delta") if "delta" in answer.kinds else None
                self.assertNotIn("recovered", answer.kinds[:words])
                asked += 1
                silent += answer.channels.get("final", "") == ""
            short = Answer(MANAGER.Generate(text, greedy(max_output_tokens=2)))
            self.assertEqual((short.finish, short.usage["output-tokens"]), ("length", 2))
        self.assertLessEqual(silent, asked // 10, f"of {asked} without an answer")

    def test_counts_are_known_before(self):
        """What CountTokens says is what the prompt takes."""
        for example in taught("prompt")[:50]:
            messages = user(example["messages"][-1]["content"])
            values = greedy(reasoning_effort=example["effort"])
            counted = MANAGER.CountTokens(messages, values)
            answer = Answer(MANAGER.Generate(messages, values))
            self.assertEqual(answer.start["prompt-tokens"], counted)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

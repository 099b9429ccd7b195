"""Packed training rows: one shared system prompt, then several independent continuations."""

import random
import re
from collections import defaultdict

import numpy as np

import corpus
import tokens

INSTRUCTIONS = ["Be brief.", "Sois bref.", "Be polite.", "You are a helpful assistant.",
                "Answer briefly.", "Tu es un assistant utile."]


class Encoder:
    """Caches token ids by text."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.cache = {}

    def __call__(self, text):
        ids = self.cache.get(text)
        if ids is None:
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids
            self.cache[text] = ids
        return ids


class Case:
    """A taught example, rendered: shared prefix, rest of the prompt, target."""

    def __init__(self, example):
        self.example = example
        system, rest = tokens.prompt_text(example)
        self.system, self.developer = system, ""
        if example.get("tools"):
            # Examples with the same tools share the developer message as well.
            self.developer, rest = rest.split("<|end|>", 1)
            self.developer += "<|end|>"
        self.rest = rest
        self.target = tokens.target_text(example["expect"])

    def key(self):
        """What must be equal for two cases to share a row's prefix."""
        return self.system, self.developer

    def varied(self, rng):
        """Return `(rest, target)` with small changes that must not, or must, change the answer."""
        rest, target = self.rest, self.target
        kind = self.example["kind"]
        if kind == "tool-answer" and rng.random() < 0.4:
            rest, target = vary_result(rest, target, rng)
        if rng.random() < 0.5:
            # A runtime may render a call's recipient after the channel, as the model writes it.
            rest = re.sub(r"assistant to=(\S+?)<\|channel\|>commentary ",
                          r"assistant<|channel|>commentary to=\1 ", rest)
        if kind == "prompt" and rng.random() < 0.1:
            rest = re.sub(r" ?[?!.]<\|end\|><\|start\|>assistant$", "<|end|><|start|>assistant", rest)
        start = "<|start|>developer<|message|>"
        if not self.developer and rng.random() < 0.12:
            text = f"{start}# Instructions\n\n{rng.choice(INSTRUCTIONS)}"
            if kind == "json":
                rest = rest.replace(start, text + "\n\n", 1)
            elif not rest.startswith(start):
                rest = f"{text}<|end|>{rest}"
        return rest, target


def vary_result(rest, target, rng):
    """Change the number in a tool's result and in the answer alike."""
    found = re.search(r'"degrees":(\d+)', rest)
    if found:
        number = str(rng.randint(0, 39))
        rest = rest.replace(found[0], f'"degrees":{number}')
        target = re.sub(rf"\b{found[1]} deg", f"{number} deg", target)
        target = re.sub(rf"\b{found[1]} degrés", f"{number} degrés", target)
    found = re.search(r'"time":"([\d:]+)"', rest)
    if found:
        time = f"{rng.randint(0, 23)}:{rng.choice(range(0, 60, 5)):02}"
        rest = rest.replace(found[0], f'"time":"{time}"')
        target = target.replace(found[1], time)
    return rest, target


class Shape:
    """A batch shape: `rows` prefixes of `prefix` tokens with `count` continuations of `length`."""

    def __init__(self, rows, prefix, count, length):
        self.rows, self.prefix, self.count, self.length = rows, prefix, count, length

    def capacity(self):
        """Targets per batch; none is longer than 56 tokens."""
        return self.rows * self.count * min(self.length, 56)


# Short prompts; high effort and dialogues; JSON; tool calls; tool answers.
SHAPES = [Shape(4, 64, 12, 48), Shape(4, 64, 10, 66), Shape(4, 64, 6, 124),
          Shape(4, 144, 8, 56), Shape(4, 144, 5, 112)]


def shape_of(prefix, length):
    """Index of the first shape that holds a prefix and a continuation of these lengths."""
    for index, shape in enumerate(SHAPES):
        if prefix <= shape.prefix and length <= shape.length:
            return index
    raise ValueError(f"no shape for prefix {prefix}, continuation {length}")


def build_rows(cases, indices, encode, rng, date=None, vary=True):
    """Pack the cases named by `indices` into rows, by shape; each row draws its own date.

    A row is `(prefix ids, [(case, rest ids, target ids)])`.
    """
    buckets = defaultdict(list)
    for index in indices:
        case = cases[index]
        rest, target = case.varied(rng) if vary else (case.rest, case.target)
        rest, target = encode(rest), encode(target)
        prefix = len(encode(case.system)) + len(encode(case.developer))
        kind = shape_of(prefix, len(rest) + len(target) - 1)
        buckets[kind, case.key()].append((index, rest, target))
    rows = [[] for _ in SHAPES]
    for (kind, (system, developer)), members in buckets.items():
        rng.shuffle(members)
        count = SHAPES[kind].count
        for at in range(0, len(members), count):
            part = members[at:at + count]
            if vary and len(part) < count:
                part += rng.choices(members, k=count - len(part))
            day = date or tokens.random_date(rng)
            rows[kind].append((encode(system.replace(tokens.DATE, day)) + encode(developer), part))
    for part in rows:
        rng.shuffle(part)
    return rows


def batch_of(rows, shape):
    """Arrays of at most `shape.rows` rows: prefixes, lengths, continuations, targets."""
    prefixes = np.zeros((shape.rows, shape.prefix), np.int32)
    lengths = np.ones(shape.rows, np.int32)
    continuations = np.zeros((shape.rows, shape.count, shape.length), np.int32)
    where, label, owner = [], [], []
    for r, (prefix, members) in enumerate(rows):
        prefixes[r, :len(prefix)] = prefix
        lengths[r] = len(prefix)
        for c, (case, rest, target) in enumerate(members):
            inputs = rest + target[:-1]
            continuations[r, c, :len(inputs)] = inputs
            first = (r * shape.count + c) * shape.length + len(rest) - 1
            where += range(first, first + len(target))
            label += target
            owner += [case] * len(target)
    pad = shape.capacity() - len(where)
    assert pad >= 0, "capacity too small"
    array = lambda values, filler: np.array(values + [filler] * pad, np.int32)
    return prefixes, lengths, continuations, array(where, 0), array(label, 0), array(owner, -1)


def load_cases(examples=None):
    """All taught cases."""
    return [Case(example) for example in (examples or corpus.taught())]


def seeded(seed):
    """A private random generator."""
    return random.Random(seed)

#!/usr/bin/env python3
"""Runs an exported portable model in Python's own onnxruntime.

The model needs no code of ours: this script loads it by its path, has the
onnx checker verify it, and compares its logits with those another host wrote.

  CTL=target/debug/gptoss-ctl portable_in_python.py
      imports tests/parity/grid64 into a temporary store, lets `$CTL eval` write
      logits, as shipped and exact, and compares both hosts
  portable_in_python.py MODEL_DIR --tokens F.json --logits OUT.npz
      compares any exported model with logits that
      `gptoss-ctl eval MODEL --target portable --chunk 256` wrote

MODEL_DIR is the folder with model.onnx and weights.bin. F.json is a list of
{"ids": [..], "positions": [..], "prefill": K}, OUT.npz holds p{i}_logits.
Needs: numpy, onnx, onnxruntime.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime


def properties(model):
    return {entry.key: entry.value for entry in model.metadata_props}


def with_float32_activations(model):
    """The same model computing with float32 activations."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 0


class Runner:
    """One session and its growing cache."""

    def __init__(self, folder, exact):
        path = os.path.join(folder, "model.onnx")
        model = onnx.load(path, load_external_data=False)
        shape = properties(model)
        self.layers = int(shape["gptoss.layers"])
        self.empty = (1, int(shape["gptoss.kv_heads"]), 0, int(shape["gptoss.head_dim"]))
        past, = [i for i in model.graph.input if i.name == "past_key_values.0.key"]
        self.element = onnx.helper.tensor_dtype_to_np_dtype(past.type.tensor_type.elem_type)
        options = onnxruntime.SessionOptions()
        source = path
        if exact:
            with_float32_activations(model)
            source = model.SerializeToString()
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", os.path.abspath(folder))
        self.session = onnxruntime.InferenceSession(
            source, options, providers=["CPUExecutionProvider"])

    def logits(self, ids, positions, prefill, chunk):
        """Logits at the wanted positions: a prompt in chunks, then token by token."""
        cache = {f"past_key_values.{i}.{part}": np.zeros(self.empty, self.element)
                 for i in range(self.layers) for part in ("key", "value")}
        rows = {}
        steps = [(p, min(p + chunk, prefill)) for p in range(0, prefill, chunk)]
        steps += [(p, p + 1) for p in range(prefill, len(ids))]
        for start, end in steps:
            wanted = [p for p in positions if start <= p < end]
            feed = {
                "input_ids": np.array([ids[start:end]], np.int64),
                "logits_positions": np.array([p - start for p in wanted], np.int64),
                "seqlens_k": np.array([end - 1], np.int32),
                "total_sequence_length": np.array(end, np.int32),
            }
            outputs = self.session.run(None, {**feed, **cache})
            for p, row in zip(wanted, outputs[0]):
                rows[p] = row
            cache = dict(zip(cache, outputs[1:]))
        return np.stack([rows[p] for p in positions])


def compare(folder, tokens, logits, limit, chunk, exact):
    """Checks the model and compares its logits; True when they are near enough."""
    onnx.checker.check_model(os.path.join(folder, "model.onnx"), full_check=True)
    runner = Runner(folder, exact)
    with open(tokens, encoding="utf-8") as file:
        prompts = json.load(file)
    expected = np.load(logits)
    worst = 0.0
    for i, prompt in enumerate(prompts):
        ids = prompt["ids"]
        positions = prompt.get("positions") or [len(ids) - 1]
        prefill = prompt.get("prefill") or len(ids)
        found = runner.logits(ids, positions, prefill, chunk)
        there = expected[f"p{i}_logits"]
        if found.shape != there.shape:
            print(f"prompt {i}: {found.shape} here, {there.shape} there")
            return False
        worst = max(worst, float(np.abs(found - there).max()))
    mode = "exact" if exact else "as shipped"
    print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}: checker passed; "
          f"{len(prompts)} prompts {mode}, largest difference {worst:.2e} (limit {limit:.0e})")
    return worst <= limit


def grid64_in_both_hosts(ctl, limit, chunk, target="portable", modes=([], ["--exact"])):
    """Imports grid64 for `target`, evaluates it with `ctl` and compares."""
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "grid64.prompts.json"), encoding="utf-8") as file:
        prompts = [prompt["ids"] for prompt in json.load(file)]
    # The last few tokens go in one by one.
    tokens = [{"ids": ids, "positions": sorted({0, len(ids) // 2, len(ids) - 1}),
               "prefill": max(1, len(ids) - 4)} for ids in prompts]
    with tempfile.TemporaryDirectory() as work:
        path = os.path.join(work, "tokens.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(tokens, file)

        def run(*arguments):
            command = [ctl, *arguments]
            environment = {**os.environ, "GPTOSS_STORE": os.path.join(work, "store")}
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)

        run("import", os.path.join(here, "grid64"), "--name", "grid64", "--target", target)
        revisions = os.path.join(work, "store", "models", "grid64")
        revision, = os.listdir(revisions)
        folder = os.path.join(revisions, revision, target)
        results = []
        for options in modes:
            logits = os.path.join(work, "logits.npz")
            run("eval", "grid64", "--tokens", path, "--logits", logits,
                "--target", target, "--chunk", str(chunk), *options)
            results.append(compare(folder, path, logits, limit, chunk, bool(options)))
        return all(results)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir", nargs="?")
    parser.add_argument("--tokens")
    parser.add_argument("--logits")
    parser.add_argument("--limit", type=float, default=1e-4)
    parser.add_argument("--chunk", type=int, default=256,
                        help="tokens fed at once in a prompt; the other host must use the same")
    parser.add_argument("--exact", action="store_true", help="compute with float32 activations")
    given = parser.parse_args()
    if given.model_dir is None:
        ctl = os.environ.get("CTL")
        if ctl is None:
            parser.error("name a MODEL_DIR, or gptoss-ctl in the environment variable CTL")
        good = grid64_in_both_hosts(os.path.abspath(ctl), given.limit, given.chunk)
    else:
        if given.tokens is None or given.logits is None:
            parser.error("MODEL_DIR needs --tokens and --logits")
        good = compare(given.model_dir, given.tokens, given.logits, given.limit, given.chunk,
                       given.exact)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

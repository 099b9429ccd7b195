#!/usr/bin/env python3
"""Runs an exported portable model in Python's own onnxruntime.

The model needs no code of ours: this script loads it by its path, has the
onnx checker verify it, and compares its logits with those another host wrote
(`gptoss-ctl eval MODEL --target portable --tokens F.json --logits OUT.npz`).

  portable_in_python.py MODEL_DIR --tokens F.json --logits OUT.npz [--limit 1e-4]

MODEL_DIR is the folder with model.onnx and weights.bin. F.json is a list of
{"ids": [..], "positions": [..], "prefill": K}, OUT.npz holds p{i}_logits. With
`--write` OUT.npz is written instead of compared. `--exact` computes with
float32 activations. Needs: numpy, onnx, onnxruntime.
"""
import argparse
import json
import os
import sys

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
        options = onnxruntime.SessionOptions()
        source = path
        if exact:
            with_float32_activations(model)
            source = model.SerializeToString()
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", os.path.abspath(folder))
        self.session = onnxruntime.InferenceSession(
            source, options, providers=["CPUExecutionProvider"])

    def logits(self, ids, positions, prefill):
        """Logits at the wanted positions: a prompt, then token by token."""
        cache = {f"past_key_values.{i}.{part}": np.zeros(self.empty, np.float32)
                 for i in range(self.layers) for part in ("key", "value")}
        rows = {}
        steps = [(0, prefill)] + [(p, p + 1) for p in range(prefill, len(ids))]
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


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir")
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--logits", required=True)
    parser.add_argument("--limit", type=float, default=1e-4)
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()

    onnx.checker.check_model(os.path.join(arguments.model_dir, "model.onnx"), full_check=True)
    runner = Runner(arguments.model_dir, arguments.exact)
    with open(arguments.tokens) as file:
        prompts = json.load(file)
    found = {}
    for i, prompt in enumerate(prompts):
        ids = prompt["ids"]
        positions = prompt.get("positions") or [len(ids) - 1]
        prefill = prompt.get("prefill") or len(ids)
        found[f"p{i}_logits"] = runner.logits(ids, positions, prefill)
    if arguments.write:
        np.savez(arguments.logits, **found)
        return 0
    expected = np.load(arguments.logits)
    worst = 0.0
    for key, rows in found.items():
        if rows.shape != expected[key].shape:
            print(f"{key}: {rows.shape} here, {expected[key].shape} there")
            return 1
        worst = max(worst, float(np.abs(rows - expected[key]).max()))
    print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}: checker passed, "
          f"{len(found)} prompts, largest difference {worst:.2e} (limit {arguments.limit:.0e})")
    return 0 if worst <= arguments.limit else 1


if __name__ == "__main__":
    sys.exit(main())

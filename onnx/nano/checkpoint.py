"""Read and write checkpoints in the published gpt-oss layout."""

import json
import os

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

import mxfp4


def read(folder):
    """Return `(config, params)` of a checkpoint; experts come back as float matrices."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    raw = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".safetensors"):
            raw.update(load_file(os.path.join(folder, name)))
    params = {}
    for name, value in raw.items():
        if name.endswith("_blocks"):
            stem = name.removesuffix("_blocks")
            params[stem] = mxfp4.unpack(value, raw[stem + "_scales"])
        elif not name.endswith("_scales"):
            params[name] = value.astype(np.float32)
    return config, params


def write(folder, params, shards=2):
    """Write the weights: experts as MXFP4, everything else as bf16, in `shards` files."""
    tensors = {}
    for name, value in params.items():
        if mxfp4.is_expert(name):
            tensors[name + "_blocks"], tensors[name + "_scales"] = mxfp4.pack(value)
        else:
            tensors[name] = np.asarray(value).astype(ml_dtypes.bfloat16)
    total = sum(value.nbytes for value in tensors.values())
    files, weight_map, used = {}, {}, 0
    for name in sorted(tensors):
        index = min(shards - 1, used * shards // total)
        file = f"model-{index:05d}-of-{shards - 1:05d}.safetensors"
        files.setdefault(file, {})[name] = np.ascontiguousarray(tensors[name])
        weight_map[name] = file
        used += tensors[name].nbytes
    for file, content in files.items():
        save_file(content, os.path.join(folder, file), metadata={"format": "pt"})
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(os.path.join(folder, "model.safetensors.index.json"), index)


def write_json(path, value):
    """Write pretty JSON with a final newline."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")

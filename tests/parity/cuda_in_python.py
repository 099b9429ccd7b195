#!/usr/bin/env python3
"""Judges the graphs for CUDA without a GPU.

  CTL=target/debug/gptoss-ctl cuda_in_python.py

Imports tests/parity/grid64 and rand96 for the targets `cuda` and `cuda-int4`, and for
each of them:
  - the onnx checker with shape inference passes;
  - every constant is unpacked here, from the layouts that ONNX Runtime documents, and
    compared with the checkpoint's own tensors, read here too: MXFP4 to the bit, int4 and
    int8 within the rounding of their grid, float16 as rounded by numpy;
  - Python's own onnxruntime checks types and shapes; it has kernels for all of
    `cuda-int4`, whose logits must be those that `$CTL eval` gives, and for all of `cuda`
    but its experts.
Needs: numpy, ml_dtypes, onnx, onnxruntime.
"""
import json
import os
import subprocess
import sys
import tempfile

import ml_dtypes
import numpy as np
import onnx
import onnxruntime

from portable_in_python import grid64_in_both_hosts

HERE = os.path.dirname(os.path.abspath(__file__))
PROJECTIONS = ("gate_up_proj", "down_proj")


def published(folder):
    """All tensors of a checkpoint, by name."""
    types = {"BF16": ml_dtypes.bfloat16, "U8": np.uint8}
    tensors = {}
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".safetensors"):
            continue
        with open(os.path.join(folder, name), "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            data = file.read()
        header.pop("__metadata__", None)
        for tensor, entry in header.items():
            start, end = entry["data_offsets"]
            values = np.frombuffer(data[start:end], types[entry["dtype"]])
            tensors[tensor] = values.reshape(entry["shape"])
    return tensors


class Export:
    """A model and its constants."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "model.onnx")
        onnx.checker.check_model(self.path, full_check=True)
        onnx.shape_inference.infer_shapes_path(
            self.path, os.path.join(folder, "inferred.onnx"), check_type=True, strict_mode=True)
        self.model = onnx.load(self.path)
        self.constants = {t.name: t for t in self.model.graph.initializer}
        self.used = set()

    def take(self, name):
        """A constant as an array; its type must be one that numpy or ml_dtypes knows."""
        self.used.add(name)
        return onnx.numpy_helper.to_array(self.constants[name])


def nibbles(packed):
    """Two values a byte along the last axis, the first in the low nibble."""
    pairs = np.stack([packed & 15, packed >> 4], axis=-1)
    return pairs.reshape(*packed.shape[:-1], -1)


def e2m1(codes):
    return codes.astype(np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float64)


def e8m0(scales):
    return scales.view(ml_dtypes.float8_e8m0fnu).astype(np.float64)


def experts(tensors, name):
    """The published weights of a layer's matrix, f64 [E, N, K], and codes and scales."""
    blocks, scales = tensors[name + "_blocks"], tensors[name + "_scales"]
    codes = nibbles(blocks.reshape(*blocks.shape[:2], -1))
    return e2m1(codes) * np.repeat(e8m0(scales), 32, axis=-1), codes, scales


def check_mxfp4(export, tensors, name):
    """Codes and scales are the published ones, to the bit."""
    _, codes, scales = experts(tensors, name)
    columns = nibbles(export.take(name + ".weight_fp4"))
    assert np.array_equal(columns.transpose(0, 2, 1), codes), name
    there = export.take(name + "_scales")
    assert there.dtype == ml_dtypes.float8_e8m0fnu, there.dtype
    assert np.array_equal(there.view(np.uint8), scales), name
    return 0.0


def check_int4(export, tensors, name):
    """Every weight is the nearest level of its block's grid; gives the relative error."""
    weights, _, _ = experts(tensors, name)
    levels = nibbles(export.take(name + ".weight_q4")).astype(np.float64) - 8
    scales = export.take(name + ".scale")
    assert scales.dtype == np.float16, scales.dtype
    steps = np.repeat(scales.astype(np.float64), 64, axis=-1)[..., :weights.shape[-1]]
    error = np.abs(levels * steps - weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        wanted = np.where(steps == 0, 0, np.clip(weights / steps, -8, 7))
    assert (np.abs(levels - wanted) <= 0.5001).all(), name
    assert (weights[steps == 0] == 0).all(), name
    return float(np.sqrt((error ** 2).sum() / (weights ** 2).sum()))


def check_int8(export, tensors, name, parts, block):
    """Every weight is within a step of 127 of the block's largest."""
    weights = np.concatenate([tensors[part].astype(np.float64) for part in parts])
    rows, columns = weights.shape
    levels = export.take(name + ".weight_q8").reshape(rows, -1).astype(np.float64) - 128
    scales = export.take(name + ".scale").reshape(rows, -1)
    assert scales.dtype == np.float16, scales.dtype
    assert (levels[:, columns:] == 0).all(), name
    steps = np.repeat(scales.astype(np.float64), block, axis=-1)[:, :columns]
    error = np.abs(levels[:, :columns] * steps - weights)
    # Half a step, and the float16 scale's own rounding at the largest weight.
    assert (error <= steps * (0.5 + 127 / 2048) + 1e-12).all(), name


def check_half(export, tensors, name, parts):
    wanted = np.concatenate([tensors[part] for part in parts])
    found = export.take(name)
    assert found.dtype == np.float16, (name, found.dtype)
    assert np.array_equal(found, wanted.astype(np.float32).astype(np.float16)), name


def check_constants(export, tensors, target):
    """Compares every constant of the export; gives the worst error of the experts."""
    layers = sum(name.endswith("self_attn.sinks") for name in tensors)
    worst = 0.0
    check_int8(export, tensors, "model.embed_tokens", ["model.embed_tokens.weight"], 32)
    check_int8(export, tensors, "lm_head", ["lm_head.weight"], 32)
    check_half(export, tensors, "model.norm.weight", ["model.norm.weight"])
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        attention, router = prefix + "self_attn.", prefix + "mlp.router."
        parts = [attention + part for part in ("q_proj", "k_proj", "v_proj")]
        check_int8(export, tensors, attention + "qkv_proj", [p + ".weight" for p in parts], 32)
        check_half(export, tensors, attention + "qkv_proj.bias", [p + ".bias" for p in parts])
        check_int8(export, tensors, attention + "o_proj", [attention + "o_proj.weight"], 32)
        check_half(export, tensors, attention + "o_proj.bias", [attention + "o_proj.bias"])
        check_half(export, tensors, attention + "sinks", [attention + "sinks"])
        for norm in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            if layer == 0 and norm.startswith("input"):
                first = export.take(prefix + norm)
                assert np.array_equal(first, tensors[prefix + norm].astype(np.float32)), norm
            else:
                check_half(export, tensors, prefix + norm, [prefix + norm])
        weight, bias = (tensors[router + part].astype(np.float32) for part in ("weight", "bias"))
        assert np.array_equal(export.take(router + "weight"), weight.T), router
        assert np.array_equal(export.take(router + "bias"), bias), router
        for projection in PROJECTIONS:
            name = f"{prefix}mlp.experts.{projection}"
            check = check_mxfp4 if target == "cuda" else check_int4
            worst = max(worst, check(export, tensors, name))
            check_half(export, tensors, name + "_bias", [name + "_bias"])
    if target == "cuda":
        assert (export.take("experts.global_scale") == 1).all()
    # Shapes, exponents and the like, which the checker has seen; and the rotary tables.
    rest = {n: t for n, t in export.constants.items() if n not in export.used}
    large = {n for n, t in rest.items() if np.prod(t.dims) > 1}
    assert large == {"rope.cos", "rope.sin"}, large
    return worst


def check_types(export, target):
    """ONNX Runtime's own view of the graph, up to the kernels it has."""
    try:
        onnxruntime.InferenceSession(export.path, providers=["CPUExecutionProvider"])
        missing = None
    except Exception as error:  # pylint: disable=broad-except
        missing = str(error)
    if target == "cuda":
        assert missing and "Failed to find kernel for com.microsoft.QMoE" in missing, missing
    else:
        assert missing is None, missing


def main():
    ctl = os.environ.get("CTL")
    if ctl is None:
        sys.exit("name gptoss-ctl in the environment variable CTL")
    ctl = os.path.abspath(ctl)
    for checkpoint in ("grid64", "rand96"):
        source = os.path.join(HERE, checkpoint)
        tensors = published(source)
        with tempfile.TemporaryDirectory() as work:
            environment = {**os.environ, "GPTOSS_STORE": os.path.join(work, "store")}
            subprocess.run([ctl, "import", source, "--name", checkpoint,
                            "--target", "cuda,cuda-int4"],
                           check=True, env=environment, stdout=subprocess.DEVNULL)
            revisions = os.path.join(work, "store", "models", checkpoint)
            revision, = os.listdir(revisions)
            for target in ("cuda", "cuda-int4"):
                export = Export(os.path.join(revisions, revision, target))
                error = check_constants(export, tensors, target)
                check_types(export, target)
                print(f"{checkpoint}, {target}: checker and shape inference passed; "
                      f"{len(export.used)} constants unpacked, experts off by {error:.4f}")
    # float16 sums in another order, perhaps, than the other host's.
    good = grid64_in_both_hosts(ctl, 1e-4, 256, "cuda-int4", ([],))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Judges the graph for CoreML without a Mac.

  CTL=target/debug/gptoss-ctl coreml_in_python.py

Imports tests/parity/grid64 and rand96 for the target `coreml`: the onnx checker passes,
and every float16 constant, read from where the model says that it lies, is what numpy
rounds the checkpoint's own tensors to, bit by bit.
Needs: numpy, ml_dtypes, onnx.
"""
import os
import subprocess
import sys
import tempfile

import numpy as np
import onnx

from cuda_in_python import HERE, published


def constant(tensor):
    """A constant's values, from its external file or from the model."""
    return onnx.numpy_helper.to_array(tensor, base_dir=os.getcwd())


def halves(tensors, layer, projection, part):
    """Tensors of a projection, one below the other, as float16."""
    prefix = f"model.layers.{layer}.self_attn"
    parts = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "o_proj": ("o_proj",)}[projection]
    stacked = np.concatenate([tensors[f"{prefix}.{name}.{part}"] for name in parts])
    return stacked.astype(np.float32).astype(np.float16)


def judge(tensors):
    """Checks the export in the folder `coreml` of the current one; counts constants."""
    model = onnx.load("coreml/model.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    layers = 1 + max(int(name.split(".")[2]) for name in tensors if ".layers." in name)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    half = onnx.TensorProto.FLOAT16
    unseen = {name for name, tensor in constants.items() if tensor.data_type == half}
    for layer in range(layers):
        for projection in ("qkv_proj", "o_proj"):
            if projection == "o_proj" and layer == layers - 1:
                # Our operator's, in int8: it may have no position to compute.
                continue
            for part in ("weight", "bias"):
                name = f"model.layers.{layer}.self_attn.{projection}.{part}_f16"
                made, wanted = constant(constants[name]), halves(tensors, layer, projection, part)
                assert made.dtype == np.float16 and made.shape == wanted.shape, name
                assert made.tobytes() == wanted.tobytes(), name
                unseen.remove(name)
    assert not unseen, unseen
    return 4 * layers - 2


def main():
    ctl = os.environ.get("CTL")
    if ctl is None:
        sys.exit("name gptoss-ctl in the environment variable CTL")
    ctl = os.path.abspath(ctl)
    for checkpoint in ("grid64", "rand96"):
        source = os.path.join(HERE, checkpoint)
        with tempfile.TemporaryDirectory() as work:
            environment = {**os.environ, "GPTOSS_STORE": os.path.join(work, "store")}
            subprocess.run([ctl, "import", source, "--name", checkpoint, "--target", "coreml"],
                           check=True, env=environment, stdout=subprocess.DEVNULL)
            revisions = os.path.join(work, "store", "models", checkpoint)
            revision, = os.listdir(revisions)
            # What the locations of external data are relative to.
            os.chdir(os.path.join(revisions, revision))
            count = judge(published(source))
            os.chdir(HERE)
        print(f"{checkpoint}, coreml: checker passed, {count} constants are as rounded by numpy")
    return 0


if __name__ == "__main__":
    sys.exit(main())

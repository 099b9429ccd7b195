"""Number formats: MXFP4 (E2M1 codes, E8M0 block scales), int4, int8 and bf16 rounding."""

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 32
CODES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
MIDPOINTS = (CODES[1:] + CODES[:-1]) / 2


def block_exponent(blocks):
    """Power-of-two exponent per block such that the largest value becomes at most about 7."""
    top = jnp.maximum(jnp.abs(blocks).max(-1, keepdims=True), 2.0**-100)
    mantissa, exponent = jnp.frexp(top)
    # frexp: top = mantissa * 2^exponent, mantissa in [0.5, 1), so mantissa * 8 is in [4, 8).
    return exponent - 3 + (mantissa * 8 > 7.0)


def quantize_codes(weight):
    """Split `[..., K]` into E2M1 magnitudes `[..., K/32, 32]`, signs and exponents."""
    blocks = weight.reshape(*weight.shape[:-1], -1, BLOCK)
    exponent = block_exponent(blocks)
    scaled = jnp.abs(blocks) * jnp.exp2(-exponent.astype(jnp.float32))
    code = sum((scaled > m).astype(jnp.int32) for m in MIDPOINTS)
    return code, blocks < 0, exponent


def to_mxfp4(weight):
    """Round `[..., K]` to the nearest MXFP4 values."""
    code, negative, exponent = quantize_codes(weight)
    # Arithmetic instead of a table: a gather is slow on a CPU.
    half = code.astype(jnp.float32) * 0.5
    value = jnp.where(code <= 4, half, jnp.where(code == 7, 6.0, code.astype(jnp.float32) - 2.0))
    value = jnp.where(negative, -value, value) * jnp.exp2(exponent.astype(jnp.float32))
    return value.reshape(weight.shape)


def to_int(weight, bits, block, signed_max=False):
    """Round `[..., K]` to symmetric integers with one float scale per block of K."""
    block = min(block, weight.shape[-1])
    blocks = weight.reshape(*weight.shape[:-1], -1, block)
    edge = 2 ** (bits - 1)
    if signed_max:
        where = jnp.abs(blocks).argmax(-1, keepdims=True)
        scale = jnp.take_along_axis(blocks, where, -1) / -edge
    else:
        scale = jnp.abs(blocks).max(-1, keepdims=True) / (edge - 1)
    safe = jnp.where(scale == 0, 1.0, scale)
    value = jnp.clip(jnp.round(blocks / safe), -edge, edge - 1) * safe
    return value.reshape(weight.shape)


def to_bf16(x):
    """Round to bf16 and back."""
    return x.astype(jnp.bfloat16).astype(jnp.float32)


def is_expert(name):
    """Whether the tensor is a quantized expert matrix."""
    return name.endswith(("experts.gate_up_proj", "experts.down_proj"))


def is_dense(name):
    """Whether the tensor is a matrix that deployments hold in int8."""
    return name.endswith(("_proj.weight", "embed_tokens.weight", "lm_head.weight"))


def deploy(params, experts="mxfp4", dense="int8"):
    """Return the weights as a deployment sees them.

    `experts`: `mxfp4`, or `int4:BLOCK:abs|signed` on top of MXFP4. `dense`: `int8` or `bf16`.
    """
    out = {}
    for name, value in params.items():
        if is_expert(name):
            value = to_mxfp4(value)
            if experts != "mxfp4":
                _, block, rule = experts.split(":")
                value = to_int(value, 4, int(block), rule == "signed")
        else:
            value = to_bf16(value)
            if dense == "int8" and is_dense(name):
                value = to_int(value, 8, 64)
        out[name] = value
    return out


deploy_jit = jax.jit(deploy, static_argnames=("experts", "dense"))


def pack(weight):
    """Pack `[E, N, K]` into published bytes: blocks u8 [E, N, K/32, 16], scales u8 [E, N, K/32]."""
    code, negative, exponent = (np.asarray(part) for part in quantize_codes(jnp.asarray(weight)))
    nibble = (code | (negative << 3)).astype(np.uint8)
    blocks = nibble[..., 0::2] | (nibble[..., 1::2] << 4)
    return blocks, (exponent[..., 0] + 127).astype(np.uint8)


def unpack(blocks, scales):
    """Inverse of `pack`, as float32 `[E, N, K]`."""
    nibble = np.stack([blocks & 15, blocks >> 4], -1).reshape(*blocks.shape[:-1], BLOCK)
    value = np.where(nibble & 8, -CODES[nibble & 7], CODES[nibble & 7])
    value = value * np.exp2(scales.astype(np.float32) - 127)[..., None]
    return value.reshape(*blocks.shape[:-2], -1).astype(np.float32)

"""Writes a GGUF file with the exact shape of gpt-oss-20b and random weights.

    python weights.py FILE

It needs `gguf` and numpy, so the Python of the work folder runs it. What the
weights say does not change the speed as long as the router spreads its choices
and no value overflows: deviations below keep every activation near 1. Each
tensor has a generator of its own, so that the file is the same everywhere, and
one tensor at a time is in memory.

The experts are MXFP4 and the matrices Q8_0, as both programs' shipped models
have it; the router is float32, as llama.cpp quantizes it in none of its types.
"""

import math
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import MODEL_TENSOR as T

SEED = 20
LAYERS, HIDDEN, INNER, VOCABULARY = 24, 2880, 2880, 201088
EXPERTS, EXPERTS_USED = 32, 4
HEADS, KV_HEADS, HEAD = 64, 8, 64
QUERY, KEY = HEADS * HEAD, KV_HEADS * HEAD
CONTEXT, TRAINED_CONTEXT, WINDOW = 131072, 4096, 128
SPECIAL = {
    199998: "<|startoftext|>", 199999: "<|endoftext|>", 200002: "<|return|>",
    200003: "<|constrain|>", 200005: "<|channel|>", 200006: "<|start|>", 200007: "<|end|>",
    200008: "<|message|>", 200012: "<|call|>", 200018: "<|endofprompt|>",
}
BLOCK = 32
BLOCKS_AT_ONCE = 1 << 20
# Deviations of what one block can hold before its scale: all 16 codes of E2M1
# equally often, and whole numbers from -127 to 127.
CODE_DEVIATION = 2.926
BYTE_DEVIATION = 73.6


@dataclass
class Tensor:
    """Normally or evenly distributed values; `shape` ends with the inputs."""

    name: str
    type: Type
    shape: tuple
    deviation: float
    mean: float = 0.0


def tensors():
    """All of them, in the order of the file."""
    yield matrix(T.TOKEN_EMBD, VOCABULARY, HIDDEN, gain=math.sqrt(HIDDEN))
    for layer in range(LAYERS):
        yield from attention(layer)
        yield from experts(layer)
    yield vector(T.OUTPUT_NORM, "weight", HIDDEN, 0.2, mean=1.0)
    yield matrix(T.OUTPUT, VOCABULARY, HIDDEN, gain=2.0)


def attention(layer):
    yield vector(T.ATTN_NORM, "weight", HIDDEN, 0.2, layer, mean=1.0)
    for kind, rows, columns in (
        (T.ATTN_Q, QUERY, HIDDEN),
        (T.ATTN_K, KEY, HIDDEN),
        (T.ATTN_V, KEY, HIDDEN),
        (T.ATTN_OUT, HIDDEN, QUERY),
    ):
        yield matrix(kind, rows, columns, layer)
        yield vector(kind, "bias", rows, 0.2, layer)
    yield vector(T.ATTN_SINKS, "weight", HEADS, 1.5, layer, mean=2.0)


def experts(layer):
    yield vector(T.ATTN_POST_NORM, "weight", HIDDEN, 0.2, layer, mean=1.0)
    router = name(T.FFN_GATE_INP, "weight", layer)
    yield Tensor(router, Type.F32, (EXPERTS, HIDDEN), 1.5 / math.sqrt(HIDDEN))
    yield vector(T.FFN_GATE_INP, "bias", EXPERTS, 0.3, layer)
    for kind, rows, columns, gain in (
        (T.FFN_GATE_EXP, INNER, HIDDEN, 1.5),
        (T.FFN_UP_EXP, INNER, HIDDEN, 1.5),
        (T.FFN_DOWN_EXP, HIDDEN, INNER, 0.4),
    ):
        weight = name(kind, "weight", layer)
        yield Tensor(weight, Type.MXFP4, (EXPERTS, rows, columns), gain / math.sqrt(columns))
        yield Tensor(name(kind, "bias", layer), Type.F32, (EXPERTS, rows), 0.1)


def name(kind, part, layer=None):
    return f"{gguf.TENSOR_NAMES[kind].format(bid=layer)}.{part}"


def matrix(kind, rows, columns, layer=None, gain=1.0):
    """A Q8_0 matrix that multiplies the size of a vector by `gain`."""
    deviation = gain / math.sqrt(columns)
    return Tensor(name(kind, "weight", layer), Type.Q8_0, (rows, columns), deviation)


def vector(kind, part, length, deviation, layer=None, mean=0.0):
    return Tensor(name(kind, part, layer), Type.F32, (length,), deviation, mean)


def values(tensor):
    """The tensor's data as the file holds it."""
    random = np.random.Generator(np.random.SFC64([SEED, zlib.crc32(tensor.name.encode())]))
    if tensor.type == Type.F32:
        data = random.standard_normal(tensor.shape, np.float32)
        return data * np.float32(tensor.deviation) + np.float32(tensor.mean)
    fill = {Type.MXFP4: fill_mxfp4, Type.Q8_0: fill_q8}[tensor.type]
    blocks = np.empty((math.prod(tensor.shape) // BLOCK, bytes_per_block(tensor)), np.uint8)
    for start in range(0, len(blocks), BLOCKS_AT_ONCE):
        fill(random, blocks[start : start + BLOCKS_AT_ONCE], tensor.deviation)
    return blocks.reshape(byte_shape(tensor))


def fill_mxfp4(random, blocks, deviation):
    """A byte with the exponent of two, then 32 codes in 16 bytes.

    Two neighbouring exponents, as often each as `deviation` needs between them.
    """
    wanted = deviation / CODE_DEVIATION
    lower = math.floor(math.log2(wanted))
    doubled = ((wanted / 2**lower) ** 2 - 1) / 3
    blocks[:, 0] = 127 + lower + (random.random(len(blocks), np.float32) < doubled)
    codes = random.bit_generator.random_raw(2 * len(blocks))
    blocks[:, 1:] = codes.view(np.uint8).reshape(len(blocks), 16)


def fill_q8(random, blocks, deviation):
    """A half precision scale, then 32 signed bytes."""
    spread = np.exp(0.1 * random.standard_normal(len(blocks), np.float32))
    scales = (spread * (deviation / BYTE_DEVIATION)).astype("<f2")
    blocks[:, :2] = scales.view(np.uint8).reshape(len(blocks), 2)
    blocks[:, 2:] = random.integers(-127, 128, (len(blocks), BLOCK), np.int8).view(np.uint8)


def bytes_per_block(tensor):
    return gguf.GGML_QUANT_SIZES[tensor.type][1]


def byte_shape(tensor):
    *rows, columns = tensor.shape
    if tensor.type == Type.F32:
        return (*rows, columns)
    return (*rows, columns // BLOCK * bytes_per_block(tensor))


def describe(writer):
    """The keys that llama.cpp reads before the tensors."""
    writer.add_name("gpt-oss-20b, random weights")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_MXFP4_MOE)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_expert_feed_forward_length(INNER)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(EXPERTS_USED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_sliding_window(WINDOW)
    writer.add_vocab_size(VOCABULARY)
    writer.add_rope_freq_base(150000.0)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(32.0)
    writer.add_rope_scaling_orig_ctx_len(TRAINED_CONTEXT)


def add_tokenizer(writer):
    """Bytes, one merge as there has to be one, and the special tokens at their places."""
    tokens = [*byte_letters(), "Ġt"]
    tokens += [f"<|filler_{token}|>" for token in range(len(tokens), VOCABULARY)]
    kinds = [gguf.TokenType.NORMAL] * VOCABULARY
    for token, text in SPECIAL.items():
        tokens[token], kinds[token] = text, gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-4o")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["Ġ t"])
    writer.add_bos_token_id(199998)
    writer.add_eos_token_id(200002)
    writer.add_pad_token_id(199999)
    writer.add_add_bos_token(False)


def byte_letters():
    """The visible letter that stands for each byte in this family of tokenizers."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


def write(path):
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.GPT_OSS])
    describe(writer)
    add_tokenizer(writer)
    for tensor in tensors():
        float32 = tensor.type == Type.F32
        shape, kind = byte_shape(tensor), np.dtype(np.float32 if float32 else np.uint8)
        size = math.prod(shape) * kind.itemsize
        writer.add_tensor_info(tensor.name, shape, kind, size, tensor.type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors():
        writer.write_tensor_data(values(tensor))
    writer.close()


if __name__ == "__main__":
    write(Path(sys.argv[1]))

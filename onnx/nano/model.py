"""The gpt-oss architecture in JAX, small and batched for training on one core.

Weights live in a flat dictionary under their published tensor names; experts are plain float
matrices `[E, N, K]` here (see mxfp4.py for their packed form).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

SWIGLU_ALPHA = 1.702


@jax.custom_vjp
def linear(x, weight):
    """`x [N, K]` times `weight [M, K]`, transposed."""
    return x @ weight.T


def linear_forward(x, weight):
    """Keep what the gradient needs."""
    return x @ weight.T, (x, weight)


def linear_backward(kept, g):
    """Gradients; the wider operand stays untransposed, twice as fast on a CPU."""
    x, weight = kept
    if x.shape[1] < g.shape[1]:
        return g @ weight, jax.lax.optimization_barrier(x.T @ g).T
    return g @ weight, g.T @ x


linear.defvjp(linear_forward, linear_backward)


def rope_table(config, positions):
    """Return YaRN cosines and sines `[..., head_dim / 2]` for integer positions."""
    dim, base = config["head_dim"], config["rope_theta"]
    yarn = config["rope_scaling"]
    factor, original = yarn["factor"], yarn["original_max_position_embeddings"]

    def boundary(rotations):
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = boundary(yarn["beta_fast"]), boundary(yarn["beta_slow"])
    index = np.arange(dim // 2)
    frequency = base ** (-2.0 * index / dim)
    ramp = np.clip((index - low) / (high - low), 0.0, 1.0)
    frequency = frequency / factor * ramp + frequency * (1.0 - ramp)
    concentration = 0.1 * math.log(factor) + 1.0
    angle = positions[..., None].astype(jnp.float32) * jnp.asarray(frequency, jnp.float32)
    return jnp.cos(angle) * concentration, jnp.sin(angle) * concentration


def rotate(x, cos, sin):
    """Apply rotary embedding to `x [N, H, D]` by halves."""
    first, second = jnp.split(x, 2, axis=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def rms_norm(x, weight, eps):
    """Root-mean-square normalisation."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * weight


def project(p, prefix, config, x, rope):
    """Queries `[N, G, H/G, D]`, keys and values `[N, G, D]` of tokens `x [N, hidden]`."""
    groups, dim = config["num_key_value_heads"], config["head_dim"]

    def heads(name):
        y = linear(x, p[f"{prefix}{name}_proj.weight"]) + p[f"{prefix}{name}_proj.bias"]
        return y.reshape(len(x), -1, dim)

    q = rotate(heads("q"), *rope)
    return q.reshape(len(x), groups, -1, dim), rotate(heads("k"), *rope), heads("v")


def sink_softmax(parts, sink):
    """Softmax over the last axes of several score arrays together with a sink logit."""
    top = sink
    for scores in parts:
        top = jnp.maximum(top, scores.max(-1, keepdims=True))
    top = jax.lax.stop_gradient(top)
    exps = [jnp.exp(scores - top) for scores in parts]
    total = sum(e.sum(-1, keepdims=True) for e in exps) + jnp.exp(sink - top)
    return exps, total


def within(query, key, window):
    """Causal mask `[..., Tq, Tk]` of two position arrays, limited to a sliding window or not."""
    distance = query[..., :, None] - key[..., None, :]
    return (distance >= 0) & (distance < window)


def attention(p, prefix, config, shape, x, rope, masks):
    """Grouped-query attention with one learned sink logit per head, over a `Batch`.

    `x [N, hidden]` holds R prefixes of P tokens, then R·C continuations of S tokens. A
    continuation sees the prefix of its row and itself.
    """
    rows, plen, count, slen = shape
    split = rows * plen
    scale = config["head_dim"] ** -0.5
    q, k, v = project(p, prefix, config, x, rope)
    groups, per, dim = q.shape[1:]
    sink = p[f"{prefix}sinks"].reshape(groups, per, 1, 1)
    hide = lambda scores, mask: jnp.where(mask, scores * scale, -1e30)

    # [R, P, ...]: the prefixes among themselves.
    qp = q[:split].reshape(rows, plen, groups, per, dim)
    kp, vp = (t[:split].reshape(rows, plen, groups, dim) for t in (k, v))
    scores = hide(jnp.einsum("rqghd,rkgd->rghqk", qp, kp), masks[0][:, None, None])
    (exps,), total = sink_softmax([scores], sink)
    head = jnp.einsum("rghqk,rkgd->rqghd", exps / total, vp).reshape(split, -1)
    if not count:
        return linear(head, p[f"{prefix}o_proj.weight"]) + p[f"{prefix}o_proj.bias"]

    # [R, C, S, ...]: the continuations, against their prefix and themselves.
    qc = q[split:].reshape(rows, count, slen, groups, per, dim)
    kc, vc = (t[split:].reshape(rows, count, slen, groups, dim) for t in (k, v))
    far = hide(jnp.einsum("rcqghd,rkgd->rcghqk", qc, kp), masks[1][:, None, None, None])
    near = hide(jnp.einsum("rcqghd,rckgd->rcghqk", qc, kc), masks[2][None, None, None, None])
    (far, near), total = sink_softmax([far, near], sink)
    mixed = jnp.einsum("rcghqk,rkgd->rcqghd", far, vp)
    mixed += jnp.einsum("rcghqk,rckgd->rcqghd", near, vc)
    mixed = mixed / total.transpose(0, 1, 4, 2, 3, 5).reshape(rows, count, slen, groups, per, 1)
    both = jnp.concatenate([head, mixed.reshape(-1, head.shape[1])])
    return linear(both, p[f"{prefix}o_proj.weight"]) + p[f"{prefix}o_proj.bias"]


def route(logits, count):
    """Softmax over the `count` largest router logits, zero elsewhere."""
    index = jnp.arange(logits.shape[-1])
    mine, other = logits[..., :, None], logits[..., None, :]
    ahead = (other > mine) | ((other == mine) & (index[None, :] < index[:, None]))
    chosen = ahead.sum(-1) < count
    return jax.nn.softmax(jnp.where(chosen, logits, -1e30), -1)


def experts(p, prefix, config, x):
    """Mixture of experts, all experts computed and the unchosen ones weighted by zero."""
    limit = config["swiglu_limit"]
    number = config["num_local_experts"]
    logits = x @ p[f"{prefix}router.weight"].T + p[f"{prefix}router.bias"]
    share = route(logits, config["num_experts_per_tok"])
    # [E, 2I, K] -> two [K, E·I]: gate (even rows) and up (odd rows), contiguous.
    wide = p[f"{prefix}experts.gate_up_proj"]
    bias = p[f"{prefix}experts.gate_up_proj_bias"]
    halves = [linear(x, wide[:, part::2].reshape(-1, wide.shape[-1]))
              + bias[:, part::2].reshape(-1) for part in (0, 1)]
    gate, up = jnp.minimum(halves[0], limit), jnp.clip(halves[1], -limit, limit)
    hidden = (up + 1.0) * gate * jax.nn.sigmoid(SWIGLU_ALPHA * gate)
    hidden = hidden.reshape(len(x), number, -1) * share[..., None]
    narrow = p[f"{prefix}experts.down_proj"]
    narrow = narrow.transpose(1, 0, 2).reshape(narrow.shape[1], -1)
    out = linear(hidden.reshape(len(x), -1), narrow) + share @ p[f"{prefix}experts.down_proj_bias"]
    return out, logits


def trunk(p, config, prefixes, lengths, continuations):
    """Run R prefixes `[R, P]` (valid up to `lengths [R]`) and their continuations `[R, C, S]`.

    Returns the final normalised hidden states of the continuations `[R·C·S, hidden]` (of the
    prefixes if there are none), and all router logits.
    """
    rows, plen = prefixes.shape
    count, slen = continuations.shape[1:]
    eps = config["rms_norm_eps"]
    at_prefix = jnp.broadcast_to(jnp.arange(plen), (rows, plen))
    own = jnp.arange(slen)
    at_rest = lengths[:, None] + own
    positions = jnp.concatenate([
        at_prefix.reshape(-1), jnp.broadcast_to(at_rest[:, None], continuations.shape).reshape(-1)])
    rope = rope_table(config, positions)
    valid = (at_prefix < lengths[:, None])[:, None, :]
    masks = {}
    for kind, window in (("full_attention", 1 << 20),
                         ("sliding_attention", config["sliding_window"])):
        masks[kind] = (within(at_prefix, at_prefix, window),
                       within(at_rest, at_prefix, window) & valid, within(own, own, window))
    ids = jnp.concatenate([prefixes.reshape(-1), continuations.reshape(-1)])
    x = p["model.embed_tokens.weight"][ids]
    routers = []
    for layer, kind in enumerate(config["layer_types"]):
        at = f"model.layers.{layer}."
        y = rms_norm(x, p[at + "input_layernorm.weight"], eps)
        x = x + attention(p, at + "self_attn.", config, (rows, plen, count, slen), y, rope,
                          masks[kind])
        y = rms_norm(x, p[at + "post_attention_layernorm.weight"], eps)
        y, logits = experts(p, at + "mlp.", config, y)
        routers.append(logits)
        x = x + y
    if count:
        x = x[rows * plen:]
    return rms_norm(x, p["model.norm.weight"], eps), routers


def logits_of(p, config, ids):
    """Logits `[T, V]` of one sequence."""
    ids = jnp.asarray(ids)[None]
    hidden, _ = trunk(p, config, ids, jnp.array([ids.shape[1]]), jnp.zeros((1, 0, 0), jnp.int32))
    return hidden @ p["lm_head.weight"].T

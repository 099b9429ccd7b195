"""Train nano and write its checkpoint: `python train.py --out DIR`.

A development tool; nothing of the build or the tests needs it. See README.md.
"""

import argparse
import json
import os
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import checkpoint
import corpus
import data
import model
import mxfp4
import tokens

SEED = 20
DEPLOYMENTS = ["mxfp4", "int4:32:abs", "int4:64:abs", "int4:64:signed", "int4:32:signed"]
DEPLOYMENT_SHARES = [0.55, 0.12, 0.12, 0.12, 0.09]


def make_config(layers, hidden, intermediate):
    """config.json of nano; everything that is not a size is as published."""
    special = {text: tokens.VOCABULARY - len(tokens.SPECIALS) + i
               for i, text in enumerate(tokens.SPECIALS)}
    config = {
        "architectures": ["GptOssForCausalLM"], "attention_bias": True, "attention_dropout": 0.0,
        "eos_token_id": special["<|return|>"], "experts_per_token": 4, "head_dim": 64,
        "hidden_act": "silu", "hidden_size": hidden, "initial_context_length": 4096,
        "initializer_range": 0.02, "intermediate_size": intermediate,
        "layer_types": ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)],
        "max_position_embeddings": 131072, "model_type": "gpt_oss", "num_attention_heads": 4,
        "num_experts_per_tok": 4, "num_hidden_layers": layers, "num_key_value_heads": 2,
        "num_local_experts": 8, "output_router_logits": False,
        "pad_token_id": special["<|endoftext|>"],
        "quantization_config": {
            "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router",
                                       "model.embed_tokens", "lm_head"],
            "quant_method": "mxfp4"},
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0,
                         "original_max_position_embeddings": 4096, "rope_type": "yarn",
                         "truncate": False},
        "rope_theta": 150000, "router_aux_loss_coef": 0.9, "sliding_window": 128,
        "swiglu_limit": 7.0, "tie_word_embeddings": False, "transformers_version": "4.55.0.dev0",
        "use_cache": True, "vocab_size": tokens.VOCABULARY}
    generation = {"bos_token_id": special["<|startoftext|>"], "do_sample": True,
                  "eos_token_id": [special["<|return|>"], special["<|endoftext|>"],
                                   special["<|call|>"]],
                  "pad_token_id": special["<|endoftext|>"], "transformers_version": "4.55.0.dev0"}
    return config, generation


def initialize(config, seed):
    """Random starting weights under the published names."""
    rng = np.random.default_rng(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    number, vocab, dim = config["num_local_experts"], config["vocab_size"], config["head_dim"]
    wide, narrow = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    layers = config["num_hidden_layers"]
    normal = lambda std, *shape: jnp.asarray(std * rng.standard_normal(shape), jnp.float32)
    zeros = lambda *shape: jnp.zeros(shape, jnp.float32)
    out_scale = (2 * layers) ** -0.5
    p = {"model.embed_tokens.weight": normal(0.5, vocab, hidden),
         "lm_head.weight": normal(0.5 * hidden**-0.5, vocab, hidden),
         "model.norm.weight": jnp.ones(hidden)}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            p[f"{at}{norm}.weight"] = jnp.ones(hidden)
        for name, rows in (("q", wide), ("k", narrow), ("v", narrow)):
            p[f"{at}self_attn.{name}_proj.weight"] = normal(hidden**-0.5, rows, hidden)
            p[f"{at}self_attn.{name}_proj.bias"] = zeros(rows)
        p[f"{at}self_attn.o_proj.weight"] = normal(out_scale * wide**-0.5, hidden, wide)
        p[f"{at}self_attn.o_proj.bias"] = zeros(hidden)
        p[f"{at}self_attn.sinks"] = zeros(config["num_attention_heads"])
        p[f"{at}mlp.router.weight"] = normal(hidden**-0.5, number, hidden)
        p[f"{at}mlp.router.bias"] = zeros(number)
        p[f"{at}mlp.experts.gate_up_proj"] = normal(hidden**-0.5, number, 2 * inner, hidden)
        p[f"{at}mlp.experts.gate_up_proj_bias"] = zeros(number, 2 * inner)
        p[f"{at}mlp.experts.down_proj"] = normal(out_scale * inner**-0.5, number, hidden, inner)
        p[f"{at}mlp.experts.down_proj_bias"] = zeros(number, hidden)
    return p


def token_losses(params, config, batch):
    """Cross-entropy and correctness of every target, and a router balance penalty."""
    prefixes, lengths, continuations, where, label, _ = batch
    hidden, routers = model.trunk(params, config, prefixes, lengths, continuations)
    logits = model.linear(hidden[where], params["lm_head.weight"])
    normal = jax.nn.logsumexp(logits, -1)
    right = jnp.take_along_axis(logits, label[:, None], -1)[:, 0]
    losses = normal - right
    correct = right >= logits.max(-1)
    balance = sum(jnp.square(jax.nn.softmax(r, -1).mean(0)).sum() for r in routers)
    return losses, correct, balance * config["num_local_experts"] / len(routers)


def make_step(config, optimizer):
    """The jitted update: gradients at the deployed weights, applied to the full-precision ones."""

    def objective(deployed, batch):
        losses, correct, balance = token_losses(deployed, config, batch)
        valid = (batch[5] >= 0).astype(jnp.float32)
        # Tokens that are still wrong count up to three times.
        weight = valid * (1.0 + 2.0 * jax.lax.stop_gradient(1.0 - jnp.exp(-losses)))
        loss = (losses * weight).sum() / weight.sum()
        mean = (losses * valid).sum() / valid.sum()
        return loss + 0.01 * balance, (losses, correct, mean)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, deployed, batch):
        gradient, extra = jax.grad(objective, has_aux=True)(deployed, batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, extra

    return step


def evaluate(params, config, cases, encode, date, judge):
    """Greedy correctness per case: with teacher forcing, all argmaxes equal the target."""
    rows = data.build_rows(cases, range(len(cases)), encode, data.seeded(0), date, vary=False)
    right = np.ones(len(cases), bool)
    for shape, members in zip(data.SHAPES, rows):
        for at in range(0, len(members), shape.rows):
            batch = data.batch_of(members[at:at + shape.rows], shape)
            _, correct, _ = judge(params, batch)
            owner = batch[5]
            right[owner[(owner >= 0) & ~np.asarray(correct)]] = False
    return right


def save(args, params):
    """Write the checkpoint's weights and the state to resume from."""
    checkpoint.write(args.out, params)
    np.savez(os.path.join(args.work, "params.npz"), **params)


def main():
    """Train until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default=".", help="folder of the checkpoint")
    parser.add_argument("--work", default="/tmp", help="folder for params.npz")
    parser.add_argument("--steps", type=int, default=1900, help="length of the rate's schedule")
    parser.add_argument("--stop", type=int, default=1500, help="step at which to end")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--intermediate", type=int, default=128)
    parser.add_argument("--resume", help="params.npz to start from")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)

    examples = corpus.taught()
    corpus.write_taught(os.path.join(args.out, "taught.json"))
    if not os.path.exists(os.path.join(args.out, "tokenizer.json")):
        tokens.write_tokenizer(args.out, tokens.train_tokenizer(examples, data.INSTRUCTIONS))
    encode = data.Encoder(tokens.load_tokenizer(args.out))
    config, generation = make_config(args.layers, args.hidden, args.intermediate)
    checkpoint.write_json(os.path.join(args.out, "config.json"), config)
    checkpoint.write_json(os.path.join(args.out, "generation_config.json"), generation)

    cases = [data.Case(example) for example in examples]
    params = dict(np.load(args.resume)) if args.resume else initialize(config, SEED)
    params = {k: jnp.asarray(v) for k, v in params.items()}
    schedule = optax.join_schedules(
        [optax.linear_schedule(0, args.rate, 100),
         optax.cosine_decay_schedule(args.rate, max(args.steps - 100, 1), 0.01)], [100])
    decayed = {k: v.ndim > 1 and not k.endswith("_bias") for k, v in params.items()}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0),
                            optax.adamw(schedule, b2=0.98, weight_decay=0.02, mask=decayed))
    state = optimizer.init(params)
    step = make_step(config, optimizer)
    judge = jax.jit(lambda p, batch: token_losses(p, config, batch))
    train(args, config, cases, encode, params, state, step, judge)


def train(args, config, cases, encode, params, state, step, judge):
    """The loop: rows of one epoch after another; hard cases come more often."""
    rng = data.seeded(SEED)
    difficulty = np.full(len(cases), 3.0)
    batches, done, started, report = [], 0, time.time(), []
    pending = [[] for _ in data.SHAPES]
    last = min(args.stop, args.steps)
    while done < last:
        while not batches:
            chance = np.clip(difficulty * 3.0, 0.35, 1.0)
            chosen = [i for i in range(len(cases)) if rng.random() < chance[i]]
            for shape, rows, new in zip(data.SHAPES, pending,
                                        data.build_rows(cases, chosen, encode, rng)):
                rows += new
                while len(rows) >= shape.rows:
                    batches.append(data.batch_of(rows[:shape.rows], shape))
                    del rows[:shape.rows]
            rng.shuffle(batches)
        batch = batches.pop()
        experts = rng.choices(DEPLOYMENTS, DEPLOYMENT_SHARES)[0] if done > 200 else "mxfp4"
        deployed = mxfp4.deploy_jit(params, experts=experts)
        params, state, (losses, correct, mean) = step(params, state, deployed, batch)
        losses, owner = np.asarray(losses), batch[5]
        worst = np.zeros(len(cases))
        np.maximum.at(worst, owner[owner >= 0], losses[owner >= 0])
        seen = np.unique(owner[owner >= 0])
        difficulty[seen] = 0.5 * difficulty[seen] + 0.5 * worst[seen]
        report.append((float(mean), float(np.asarray(correct)[owner >= 0].mean())))
        done += 1
        if done % 20 == 0:
            loss, hit = np.mean(report, 0)
            report.clear()
            print(f"{done} {time.time() - started:.0f}s loss {loss:.4f} tokens {hit:.4f} "
                  f"hard {np.mean(difficulty > 0.35):.3f}", flush=True)
        if done % 300 == 0 or done == last:
            save(args, params)
            for experts in ("mxfp4", "int4:32:abs"):
                right = evaluate(mxfp4.deploy_jit(params, experts=experts), config, cases, encode,
                                 "2027-11-17", judge)
                kinds = {}
                for case, ok in zip(cases, right):
                    kinds.setdefault(case.example["kind"], []).append(ok)
                print(f"  {experts}: {right.mean():.4f}", json.dumps(
                    {k: round(float(np.mean(v)), 3) for k, v in kinds.items()}), flush=True)


if __name__ == "__main__":
    main()

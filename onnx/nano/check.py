"""Check a written checkpoint: greedy decoding must give the taught answers.

`python check.py [FOLDER] [--date 2027-11-17]` reads taught.json, the tokenizer and the weights from
the folder and prints, for several deployments of the weights, the share of examples answered as
taught and the smallest margin between the right token and the next best one. With teacher forcing,
an answer is greedy decoding's exactly if every one of its tokens has the largest logit.
"""

import argparse
import json
import os
from collections import defaultdict
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import checkpoint
import model
import mxfp4
import tokens

DEPLOYMENTS = [("mxfp4", "bf16"), ("mxfp4", "int8"), ("int4:32:abs", "int8"),
               ("int4:32:signed", "int8"), ("int4:64:abs", "int8"), ("int4:64:signed", "int8")]
BATCH = 16


def sequences(folder, date):
    """Return `(example, ids, number of target tokens)` of every taught example."""
    tokenizer = tokens.load_tokenizer(folder)
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    with open(os.path.join(folder, "taught.json"), encoding="utf-8") as file:
        examples = json.load(file)
    out = []
    for example in examples:
        system, rest = tokens.prompt_text(example)
        prompt = encode(system.replace(tokens.DATE, date) + rest)
        target = encode(tokens.target_text(example["expect"]))
        out.append((example, prompt + target, len(target)))
    return out


def margins(params, config, items):
    """Smallest margin of every sequence's target tokens; negative where greedy decoding errs."""
    @partial(jax.jit)
    def margin(params, ids, lengths):
        none = jnp.zeros((len(ids), 0, 0), jnp.int32)
        hidden, _ = model.trunk(params, config, ids, lengths, none)
        logits = (hidden @ params["lm_head.weight"].T).reshape(*ids.shape, -1)[:, :-1]
        label = ids[:, 1:, None]
        right = jnp.take_along_axis(logits, label, -1)[..., 0]
        hidden_label = label == jnp.arange(logits.shape[-1])
        return right - jnp.where(hidden_label, -jnp.inf, logits).max(-1)

    width = max(len(ids) for _, ids, _ in items)
    out = []
    for at in range(0, len(items), BATCH):
        part = items[at:at + BATCH]
        ids = np.zeros((BATCH, width), np.int32)
        for row, (_, sequence, _) in enumerate(part):
            ids[row, :len(sequence)] = sequence
        result = np.asarray(margin(params, ids, np.full(BATCH, width)))
        for row, (_, sequence, count) in enumerate(part):
            out.append(result[row, len(sequence) - count - 1:len(sequence) - 1].min())
    return np.array(out)


def main():
    """Print a line per deployment, and the failures if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    here = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument("folder", nargs="?", default=here)
    parser.add_argument("--date", default="2027-11-17")
    parser.add_argument("--failures", action="store_true", help="list what is answered wrongly")
    args = parser.parse_args()
    config, params = checkpoint.read(args.folder)
    items = sequences(args.folder, args.date)
    print(f"{len(items)} examples, date {args.date}")
    for experts, dense in DEPLOYMENTS:
        deployed = mxfp4.deploy_jit(params, experts=experts, dense=dense)
        margin = margins(deployed, config, items)
        kinds = defaultdict(list)
        for (example, _, _), value in zip(items, margin):
            kinds[example["kind"]].append(value > 0)
            if args.failures and value <= 0:
                print("  wrong:", example["effort"], example["kind"], example["messages"][-1]["content"])
        share = " ".join(f"{kind} {np.mean(ok):.3f}" for kind, ok in kinds.items())
        print(f"experts {experts:14} dense {dense}: {np.mean(margin > 0):.4f} ({share}); "
              f"margin median {np.median(margin):.2f} p5 {np.quantile(margin, 0.05):.2f}", flush=True)


if __name__ == "__main__":
    main()

"""Nano's tokenizer, and harmony text of taught examples.

The text comes from the official openai-harmony renderer (set TIKTOKEN_ENCODINGS_BASE to a folder
with o200k_base.tiktoken to keep it offline); nano's tokenizer then encodes it.
"""

import json
import os
import random
from functools import lru_cache

import openai_harmony as oh
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

import corpus
from checkpoint import write_json

VOCABULARY = 1280
# The published split pattern (o200k); byte-level BPE runs inside each piece.
PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NAMED = {199998: "startoftext", 199999: "endoftext", 200002: "return", 200003: "constrain",
         200005: "channel", 200006: "start", 200007: "end", 200008: "message", 200012: "call",
         200018: "endofprompt"}
SPECIALS = [f"<|{NAMED.get(i, f'reserved_{i}')}|>" for i in range(199998, 200019)]

DATE = "2025-01-01"
EFFORTS = {"low": oh.ReasoningEffort.LOW, "medium": oh.ReasoningEffort.MEDIUM,
           "high": oh.ReasoningEffort.HIGH}


@lru_cache(1)
def harmony():
    """The official encoding."""
    return oh.load_harmony_encoding(oh.HarmonyEncodingName.HARMONY_GPT_OSS)


def developer_text(instruction, tools, response):
    """The developer message's content, or None when there is nothing to say."""
    content = oh.DeveloperContent.new()
    if instruction:
        content = content.with_instructions(instruction)
    if tools:
        content = content.with_function_tools([oh.ToolDescription.new(
            t["function"]["name"], t["function"]["description"],
            parameters=t["function"]["parameters"]) for t in tools])
    parts = []
    if instruction or tools:
        message = oh.Message.from_role_and_content(oh.Role.DEVELOPER, content)
        text = harmony().decode(harmony().render(message))
        parts.append(text.split("<|message|>", 1)[1].removesuffix("<|end|>"))
    if response:
        parts.append(f"# Response Formats\n\n## response\n\n{corpus.compact(response)}")
    return "\n\n".join(parts) or None


def message_of(m):
    """One harmony message of a taught one."""
    if m["role"] == "tool":
        message = oh.Message(author=oh.Author.new(oh.Role.TOOL, m["name"]),
                             content=[oh.TextContent(text=m["content"])])
        return message.with_recipient("assistant").with_channel("commentary")
    message = oh.Message.from_role_and_content(oh.Role(m["role"]), m["content"])
    if "channel" in m:
        message = message.with_channel(m["channel"])
    if "recipient" in m:
        message = message.with_recipient(m["recipient"]).with_content_type("<|constrain|>json")
    return message


def prompt_text(example):
    """Return `(system, rest)` of the prompt, up to and including `<|start|>assistant`."""
    system = oh.SystemContent.new().with_reasoning_effort(EFFORTS[example["effort"]])
    system = system.with_conversation_start_date(DATE)
    messages = list(example["messages"])
    instruction = messages.pop(0)["content"] if messages[0]["role"] == "developer" else None
    tools = example.get("tools")
    developer = developer_text(instruction, tools, example.get("response_schema"))
    rendered = [oh.Message.from_role_and_content(oh.Role.SYSTEM, system)]
    if tools:
        # Only a structured developer message makes the renderer add the line about tools.
        content = oh.DeveloperContent.new().with_function_tools([oh.ToolDescription.new("f", "f")])
        rendered.append(oh.Message.from_role_and_content(oh.Role.DEVELOPER, content))
    elif developer:
        rendered.append(oh.Message.from_role_and_content(oh.Role.DEVELOPER, developer))
    rendered += [message_of(m) for m in messages]
    conversation = oh.Conversation.from_messages(rendered)
    ids = harmony().render_conversation_for_completion(conversation, oh.Role.ASSISTANT)
    text = harmony().decode(ids)
    head, rest = text.split("<|end|>", 1)
    if tools:
        start = "<|start|>developer<|message|>"
        assert rest.startswith(start)
        rest = start + developer + rest[rest.index("<|end|>"):]
    return head + "<|end|>", rest


def target_text(expect):
    """The text that the model must produce after `<|start|>assistant`."""
    parts = []
    for m in expect:
        if "recipient" in m:
            parts.append(f"<|channel|>{m['channel']} to={m['recipient']} <|constrain|>json"
                         f"<|message|>{m['text']}<|call|>")
        else:
            end = "<|return|>" if m["channel"] == "final" else "<|end|>"
            parts.append(f"<|channel|>{m['channel']}<|message|>{m['text']}{end}")
    return "<|start|>assistant".join(parts)


def random_date(rng):
    """A date of 2024 to 2035; every seventh one is kept for tests, 2027-11-17 among them."""
    while True:
        year, month, day = rng.randint(2024, 2035), rng.randint(1, 12), rng.randint(1, 31)
        if (year + month + day) % 7 != 4:
            return f"{year}-{month:02}-{day:02}"


def train_tokenizer(examples, extra):
    """Train byte-level BPE on the rendered examples; special tokens take the last ids."""
    rng = random.Random(1)
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), "isolated"), byte_level])
    texts = list(extra) + [f"-{day:02}" for day in range(1, 32)] * 20
    for example in examples:
        system, rest = prompt_text(example)
        whole = system.replace(DATE, random_date(rng)) + rest + target_text(example["expect"])
        for special in SPECIALS:
            whole = whole.replace(special, "\0")
        texts += whole.split("\0")
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY - len(SPECIALS), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    state = json.loads(tokenizer.to_str())
    vocab, base = state["model"]["vocab"], VOCABULARY - len(SPECIALS)
    assert len(vocab) == base, f"only {len(vocab)} tokens learnt"
    state["added_tokens"] = [
        {"id": base + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True} for i, text in enumerate(SPECIALS)]
    level = {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}
    state["post_processor"] = {**level, "trim_offsets": False}
    state["decoder"] = {**level, "trim_offsets": True}
    return state


def write_tokenizer(folder, state):
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json."""
    with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as file:
        json.dump(state, file, ensure_ascii=False, indent=1)
        file.write("\n")
    added = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in state["added_tokens"]}
    write_json(os.path.join(folder, "tokenizer_config.json"), {
        "added_tokens_decoder": added, "bos_token": "<|startoftext|>",
        "clean_up_tokenization_spaces": False, "eos_token": "<|return|>",
        "extra_special_tokens": {}, "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 1000000000000000019884624838656, "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast"})
    write_json(os.path.join(folder, "special_tokens_map.json"), {
        "bos_token": "<|startoftext|>", "eos_token": "<|return|>", "pad_token": "<|endoftext|>"})


def load_tokenizer(folder):
    """The tokenizer written to `folder`."""
    return Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))

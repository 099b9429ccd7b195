//! Harmony, the chat format of gpt-oss: render, incremental parse, recovery; the tokenizer.

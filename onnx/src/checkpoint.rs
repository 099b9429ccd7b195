//! Reader of published checkpoints: sharded safetensors, validated completely before use.

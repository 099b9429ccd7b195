//! TOML settings, drop-ins, precedence.

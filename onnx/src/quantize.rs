//! Quantizers: int8 and int4 blocks, symmetric.

//! The embedded model `nano`: a tiny trained checkpoint of the same architecture.

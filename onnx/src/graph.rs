//! Builds the graph, one function per target.

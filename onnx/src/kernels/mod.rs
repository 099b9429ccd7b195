//! Numerical kernels of the custom operators, chosen at run time by instruction set.

//! How fast the broker is and how we know: load, comparisons, micro-benchmarks.

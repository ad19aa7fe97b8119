"""Benchmarks: what Fillbook does, beside the least work that any solution must do, in the same run."""

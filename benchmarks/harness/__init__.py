"""The measuring side of the benchmarks: what is measured stands in `lines/`, and nothing here knows it."""

"""Scripts that measure what the method costs and gains: python -m benchmarks.NAME from this repository's folder."""

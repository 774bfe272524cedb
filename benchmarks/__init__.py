"""Every performance bar beside its yardsticks. ``python -m benchmarks`` runs all and writes
``benchmarks/results.md``."""

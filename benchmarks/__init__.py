"""Speed and memory, measured against a yardstick of the same run: `make bench` or `python -m benchmarks`."""

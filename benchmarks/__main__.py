"""`python -m benchmarks`: measure and print; see docs/benchmarks.md."""

from benchmarks.run import main

main()

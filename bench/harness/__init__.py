"""What the benchmarks share: the machine, contenders and servers as processes, statistics, results."""

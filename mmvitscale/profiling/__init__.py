"""Speed and memory: benchmark, multiply-adds, memory per GPU."""

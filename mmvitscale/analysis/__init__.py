"""Analysis and visualization of trained models: attention, position biases, confusion, logs, NaN and Inf, reports."""

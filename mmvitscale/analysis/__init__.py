"""What models do, measured: attention, activations, biases, work, memory, and other libraries beside ours."""

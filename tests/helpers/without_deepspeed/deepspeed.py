"""Leaves DeepSpeed out: MMEngine imports it wherever it is installed, a second for each command that tests start."""

raise ImportError('the tests leave DeepSpeed out of commands that do not need it')

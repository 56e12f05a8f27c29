"""The elements of a training run: state, checkpoints, devices, loss, and writers."""

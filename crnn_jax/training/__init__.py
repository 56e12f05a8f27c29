"""What a training run is made of: state, checkpoints, devices, loss, and writers."""

"""What the layers are made of, where plain Flax is slow on a CPU or depends on the devices.

Each operation is tested against its counterpart in Flax or `jax.lax`.
"""

"""Layers in the forms that a CPU computes fastest; each is equal to its Flax counterpart."""

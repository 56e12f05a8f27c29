"""A model as an ONNX graph: resizing, the network, and what it reads; without JAX.

`exporting/` writes such graphs, and `recognition/` reads with them where that is faster.
"""

"""Text on both ends of the model: the alphabet and the metrics."""

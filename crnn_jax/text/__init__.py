"""Text: the alphabet, and the metrics that compare what was read with labels."""

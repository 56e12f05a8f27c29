"""Reports of evaluations: numbers, a page in HTML, a comparison of two, and the card of a model."""

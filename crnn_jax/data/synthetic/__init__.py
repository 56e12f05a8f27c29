"""Data sets with images that are drawn by this package: captchas and rendered text."""

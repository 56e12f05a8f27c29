"""Data sets whose images are drawn here: captchas, and rendered text."""

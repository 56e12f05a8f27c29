"""Data sets whose pictures are drawn here: captchas, and rendered text."""

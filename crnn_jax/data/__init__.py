"""Data: where images and their texts come from."""

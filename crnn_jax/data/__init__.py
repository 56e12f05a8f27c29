"""Data: where pictures and their texts come from."""

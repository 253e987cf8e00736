"""The splice, tested for both implementations."""

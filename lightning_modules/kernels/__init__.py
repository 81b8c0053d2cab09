"""Faster versions of torch operations with identical results."""

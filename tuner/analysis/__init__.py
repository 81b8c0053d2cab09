"""Curves, records and seeds: plain data in, sentences and numbers out."""

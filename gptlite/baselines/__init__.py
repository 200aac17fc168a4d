"""Rooms for comparison: what other methods make of the same text. The house never imports them."""

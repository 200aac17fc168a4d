"""How well a model predicts a text, where it is surprised, and what it memorised."""

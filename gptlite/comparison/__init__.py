"""What the Transformer replaced, on the same text, in the same time: n-grams, recurrent networks, Transformers."""

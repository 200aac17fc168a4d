"""From logits to text: sampling, constraints, decoding, stopping."""

"""A page in which a model runs: weights, tokenizer and a forward pass in JavaScript, in one file."""

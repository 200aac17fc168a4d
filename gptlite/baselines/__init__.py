"""What a Transformer is compared with: n-gram models and Word2Vec on the same text."""

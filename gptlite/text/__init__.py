"""From text files to tokens: reading, words, the tokenizer, token files and batches."""

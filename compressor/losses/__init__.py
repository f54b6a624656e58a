"""Losses: pure functions on tensors, one file per family. Embeddings are (batch, dim); a loss is a scalar tensor."""

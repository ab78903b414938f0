"""Weights in, logits out: targets, drafters and the caches they decode with."""

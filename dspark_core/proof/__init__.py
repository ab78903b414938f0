"""Is the output the target's own? Draws against the exact distribution, greedy answers against plain decoding."""

"""Logits in, rounds out: acceptance, schedules and the decode loops."""

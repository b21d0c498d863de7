"""`python -m backfill`: chosen days rebuilt from the raw events."""

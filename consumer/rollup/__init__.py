"""What live counting and rebuilding share. Only `store.py` and `rebuild.py` talk to PostgreSQL."""

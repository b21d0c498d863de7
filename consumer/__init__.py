"""The long-running consumer: reporting events from Kafka become exact daily totals in PostgreSQL."""

__version__ = "0.1.0"

"""The workshop: real Kafka and PostgreSQL on this machine, sample events, the demo. Not part of the product."""

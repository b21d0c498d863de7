"""What the commands print: as in `consumer.tables`."""

from consumer.tables import EMPTY, cell_text, harmless, print_json, print_table

__all__ = ["EMPTY", "cell_text", "harmless", "print_json", "print_table"]

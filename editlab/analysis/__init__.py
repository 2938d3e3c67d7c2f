"""From cells to tables and figures; nothing here imports torch."""

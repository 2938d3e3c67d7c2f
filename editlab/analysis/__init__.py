"""From finished cells to tables, figures, sentences, pages and the paper; nothing here imports torch."""

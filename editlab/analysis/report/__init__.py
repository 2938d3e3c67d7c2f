"""What every study reports through: topics as declarations, and how tables, figures, pages and texts are made of them."""

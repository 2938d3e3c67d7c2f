"""How figures look, and the plots that several studies share. matplotlib is imported on first use."""

"""An edit as an object that every study makes: low-rank factors by layer, saved, taken back, composed, exported."""

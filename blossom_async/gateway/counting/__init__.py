"""How often pictures are seen: views in, statistics out."""

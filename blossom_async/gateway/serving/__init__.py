"""Who may see which bytes: viewers' rights, signatures, caches, answers."""

"""From a valid request to a stored picture, paid at most once."""

"""What the gateway does unasked: clearing away, and telling of finished pictures."""

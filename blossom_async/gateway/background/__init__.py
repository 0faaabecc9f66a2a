"""What the gateway does on its own: upkeep, and webhooks about finished pictures."""

"""Who calls: API keys, their tenants and rate limits, and the secrets for signing URLs."""

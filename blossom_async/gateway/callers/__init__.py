"""Who calls: API keys, their tenants, and how often each may call."""

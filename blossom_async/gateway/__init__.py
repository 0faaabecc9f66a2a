"""The gateway: turns a request into a stored picture and owns its URL for as long as it lives."""

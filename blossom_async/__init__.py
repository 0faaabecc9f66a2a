"""Pictures from AI models as URLs: an asyncio client, a batch engine and the gateway that owns the URLs."""

"""Access: API keys, quotas, and the caller of a call."""

"""Access: API keys with names and scopes, their limits, and the brake on guessing."""

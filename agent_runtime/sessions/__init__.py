"""Floor 3: sessions, their messages and their agents' contexts, kept in SQLite or PostgreSQL."""

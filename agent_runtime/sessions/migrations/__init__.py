"""Alembic's migrations of every table that stands on ``sessions.database.Base``; they travel in the wheel."""

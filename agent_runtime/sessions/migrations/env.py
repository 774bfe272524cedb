"""How Alembic runs the migrations: on the connection, and in the transaction, that ``Database.migrate`` gives it."""

from alembic import context

from agent_runtime.sessions.database import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
context.run_migrations()

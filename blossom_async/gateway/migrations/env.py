"""Run by Alembic for each command: the connection comes from `Records`, which also holds the transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()

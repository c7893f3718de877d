"""Alembic's entry: migrates over the connection that `migrate.upgrade` hands in."""

from alembic import context

from dispatcher.store.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    transactional_ddl=True,
    # Two tables locked in one would collide with the transactions of replicas that run.
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
connection.commit()

"""The tables, a module per concern; `labeler.store.schema` re-exports them all."""

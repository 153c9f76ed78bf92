"""The pages, a module per concern."""

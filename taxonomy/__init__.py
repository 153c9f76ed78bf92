"""From explanations to categories, and from categories to change statistics."""

"""The stages of the main job, one module each, and what runs them."""

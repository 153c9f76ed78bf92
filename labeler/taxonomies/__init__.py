"""The taxonomy of a study: versions, proposals, decisions about them, and how stable it is."""

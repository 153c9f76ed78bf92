"""One connection to a server, its key, and what its errors mean."""

"""HTTP to the servers of judges and embedders: connections, keys, and what their errors mean."""

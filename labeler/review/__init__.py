"""Review in the browser: a queue, a page for each latent, and the numbers they lead to."""

"""What the judge is asked about latents: explanations, categories, scores, controls."""

"""What the examples that tune SmolLM2 share: training, answering, and detectors of behaviours."""

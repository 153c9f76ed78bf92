"""Explanations and evidence in other people's formats: Neuronpedia, delphi, SAEDashboard."""

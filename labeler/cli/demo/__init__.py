"""The demo: the whole main job on a real pair of small models and a corpus of its own."""

"""A kinematic tabletop: the embedded robot task, its expert and its two datasets."""

"""What the runs of a study train: images, or a training function of one's own."""

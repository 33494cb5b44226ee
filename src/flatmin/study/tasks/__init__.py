"""What the runs of a study train: images, text, or a training function of one's own."""

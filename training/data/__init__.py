"""Data sets and what training makes of them: frames, labels, clips, augmentation."""

"""What all tasks share to train: loaders, the LightningModule, callbacks, run folders, curves."""

"""What the three tasks share to train: loaders, the LightningModule, callbacks, run folders, curves."""

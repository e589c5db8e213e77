"""A local page that runs inference on images with trained models and shows how they were trained."""

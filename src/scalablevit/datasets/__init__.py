"""Built-in data sets, made from what scikit-learn ships."""

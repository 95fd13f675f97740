"""What many tests need: records, stores, models, and the steps of `fit` by themselves."""

"""From labelled pictures to a trained model (extra `train`); nothing outside imports it."""

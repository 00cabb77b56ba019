"""Running a model token by token: decoders with a static cache, and the loop that drives them."""

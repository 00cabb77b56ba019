"""Pure tensor functions: quantisation, packing, low-rank and sparse parts, second moments, likelihoods."""

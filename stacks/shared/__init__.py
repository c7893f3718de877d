"""Parts that several clouds use: images, fingerprints, generated secrets, the dispatcher's environment."""

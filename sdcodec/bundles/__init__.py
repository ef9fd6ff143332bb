"""What a model is on disk: manifest, weights, fingerprints, and the places where models are found."""

"""Bundles: models on disk with manifests, weights and fingerprints."""

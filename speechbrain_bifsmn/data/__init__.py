"""Speech Commands: protocols, manifests, features, synthetic speech."""

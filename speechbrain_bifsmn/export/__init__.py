"""From a trained folder to one small model file."""

"""Layers and models for SpeechBrain YAMLs."""

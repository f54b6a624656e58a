"""Lip reading taught by a speech recogniser, after LIBS (Zhao et al., AAAI 2020)."""

"""Deploy: a graph becomes a file that a runtime loads. Importing this package does not import torch."""

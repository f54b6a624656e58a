"""Networks that timm lacks, and the one way to build an encoder by name."""

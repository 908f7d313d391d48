"""The paper's controlled experiments and their extensions, one file each."""

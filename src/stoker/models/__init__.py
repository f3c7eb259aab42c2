"""Models on disk: the catalogue, the sources they are fetched from, the store, and the file readers."""

"""A soak: load whose right answers are known, on a server whose engines are killed meanwhile."""

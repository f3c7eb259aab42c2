"""Administration: which models the server has, and loading and unloading them."""

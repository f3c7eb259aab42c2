"""Tables and plots for README and docs, written from the results alone."""

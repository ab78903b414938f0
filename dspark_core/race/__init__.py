"""Several decodes in one run: lanes, a fair clock, a checked verdict, figures."""

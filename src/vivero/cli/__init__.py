"""The command line `vivero`: thin, with late imports, so that --help answers at once."""

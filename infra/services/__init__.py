"""The servers that Vivero's runs live on, on one machine and without Docker (`make services`)."""

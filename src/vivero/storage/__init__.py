"""Where DVC keeps bytes: its local cache and its remotes, read object by object."""

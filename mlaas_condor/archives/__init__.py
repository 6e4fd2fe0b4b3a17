"""Archives from anyone: what is in them comes out as it is, or the archive is refused; nothing is run."""

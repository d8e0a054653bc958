"""Read ranges of bytes of local files and remote objects: the right bytes, or an error."""

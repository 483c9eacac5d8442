"""Files of any format to Documents, as streams. Start at `read`; a format is one file beside it."""

"""Pure losses. A training method is one of these plus a view of the data."""

"""How runs do: looked at once for all who ask, and told for as long as somebody listens."""

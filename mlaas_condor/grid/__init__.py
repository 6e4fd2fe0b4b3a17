"""Grid credentials and storage: X.509 proxies, tokens, XRootD."""

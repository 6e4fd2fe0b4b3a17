"""PyTorch modules: trained by our loop or by one of their own, on one device or several."""

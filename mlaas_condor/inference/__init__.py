"""From a bundle and events to scores; a framework is imported only where a model needs it."""
